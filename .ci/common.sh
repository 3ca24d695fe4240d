# shellcheck shell=bash
# What the scripts that prepare a machine share. Sourced, never run.

# The oldest server that Glovebox works with.
oldest_postgresql=14

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# The directory of the newest PostgreSQL server on this machine, if there is one that is new enough. The tests look in
# the same places.
server_bin() {
    local dir version best='' newest=$((oldest_postgresql - 1)) path=()
    if [[ -n ${TEST_PGBIN:-} ]]; then
        echo "$TEST_PGBIN"
        return
    fi
    IFS=: read -ra path <<<"$PATH"
    for dir in /usr/lib/postgresql/*/bin "${path[@]}"; do
        [[ $dir == /* && -x $dir/postgres && -x $dir/initdb && -x $dir/psql ]] || continue
        version=$("$dir/postgres" --version) || continue
        if [[ $version =~ \)\ ([0-9]+) ]] && ((BASH_REMATCH[1] > newest)); then
            newest=${BASH_REMATCH[1]} best=$dir
        fi
    done
    [[ -n $best ]] && echo "$best"
}

# A shell that did not read rustup's profile finds cargo all the same.
find_cargo() {
    command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
    export PATH
}
