# A program that does what the unit and Glovebox ask TeslaMate's own for. Its migrations are SQL files with the names that
# those of a release have; `eval` runs the ones that schema_migrations does not know.
{
  lib,
  pkgs,
  # Further migrations: names and SQL.
  migrations ? { },
}:
pkgs.runCommand "teslamate-stand-in" { } ''
  mkdir -p $out/bin $out/lib/teslamate-4.0.0/priv/repo/migrations
  cd $out/lib/teslamate-4.0.0/priv/repo/migrations
  echo 'create table positions (id serial primary key, at timestamp default now());' >20200101000000_first.exs
  ${lib.concatStrings (
    lib.mapAttrsToList (name: sql: "echo ${lib.escapeShellArg sql} >${name}.exs\n") migrations
  )}
  cp ${pkgs.writeShellScript "teslamate" ''
    set -euo pipefail
    export PATH=${
      lib.makeBinPath [
        pkgs.postgresql_17
        pkgs.coreutils
      ]
    }
    sql() { psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 "$@"; }
    export PGHOST=/run/postgresql PGUSER=teslamate PGDATABASE=teslamate
    here=$(dirname "$(dirname "$(readlink -f "$0")")")
    case $1 in
      eval)
        sql --command 'create table if not exists schema_migrations (version bigint primary key, inserted_at timestamp(0))'
        for file in "$here"/lib/teslamate-*/priv/repo/migrations/*.exs; do
          version=$(basename "$file" | cut -d_ -f1)
          [[ $(sql --command "select 1 from schema_migrations where version = $version") == 1 ]] && continue
          sql --single-transaction --file "$file" --command "insert into schema_migrations values ($version, now())"
        done
        ;;
      start)
        while :; do
          sql --command 'insert into positions default values'
          sleep 1
        done
        ;;
      stop) ;;
    esac
  ''} $out/bin/teslamate
''
