# Secrets by `LoadCredential=`: which files a unit is handed, and the variables that tell the programs where they are.
#
# The programs read the same config.toml in a unit and on the command line. There it names the files themselves, which
# root can read; in a unit the environment, which goes before the file, names the unit's private copies (`%d` is their
# directory). So there is one file of settings, and a secret is in no environment, only its path.
{
  lib,
  ...
}@args:
let
  context = import ./context.nix args;
  settings = import ./settings.nix args;
  inherit (context) cfg literal schemeOf;

  needsIdentity =
    entry: schemeOf entry.location == "sftp" && lib.hasPrefix "/" (entry.options.identity_file or "");

  # A repository or copy: its secrets' names, and itself as config.toml has it, with the private paths.
  entryCredentials =
    name: entry:
    let
      given = settings.repository entry;
    in
    {
      load = [
        {
          name = "${name}-password";
          path = toString entry.passwordFile;
        }
      ]
      ++ lib.optional (entry.environmentFile != null) {
        name = "${name}-environment";
        path = toString entry.environmentFile;
      }
      ++ lib.optional (needsIdentity entry) {
        name = "${name}-identity";
        path = entry.options.identity_file;
      };
      options =
        lib.mapAttrs (_: literal) entry.options
        // lib.optionalAttrs (needsIdentity entry) {
          identity_file = "%d/${name}-identity";
        };
      entry =
        given
        // {
          location = literal entry.location;
        }
        // {
          password_file = "%d/${name}-password";
        }
        // lib.optionalAttrs (entry.environmentFile != null) {
          environment_file = "%d/${name}-environment";
        };
    };
in
{
  # prefix: what the names begin with, in a unit that is not Glovebox's own.
  # copies: whether the unit brings the copies up to date. No other unit is handed their passwords.
  forUnit =
    {
      prefix ? "",
      copies ? false,
    }:
    let
      repository = entryCredentials "${prefix}repository" cfg.repository;
      numbered = lib.imap1 (number: entryCredentials "${prefix}copy-${toString number}") cfg.copies;
      load =
        lib.optional (cfg.secretsFile != null) {
          name = "${prefix}secrets";
          path = toString cfg.secretsFile;
        }
        ++ lib.optionals context.hasRepository repository.load
        ++ lib.optionals copies (lib.concatMap (copy: copy.load) numbered);
    in
    {
      # A path with spaces needs no quotes here, and would keep them.
      load = map ({ name, path }: "${name}:${literal path}") load;
      # Taken where a file is missing, which then keeps the unit from nothing.
      empty = map ({ name, ... }: "${name}:\\n") load;
      environment =
        lib.optionalAttrs (cfg.secretsFile != null) { GLOVEBOX_SECRETS_FILE = "%d/${prefix}secrets"; }
        // lib.optionalAttrs context.hasRepository {
          GLOVEBOX_REPOSITORY_PASSWORD_FILE = repository.entry.password_file;
        }
        // lib.optionalAttrs (context.hasRepository && cfg.repository.environmentFile != null) {
          GLOVEBOX_REPOSITORY_ENVIRONMENT_FILE = repository.entry.environment_file;
        }
        // lib.optionalAttrs (context.hasRepository && needsIdentity cfg.repository) {
          GLOVEBOX_REPOSITORY_OPTIONS = builtins.toJSON repository.options;
        }
        // lib.optionalAttrs (cfg.copies != [ ]) {
          GLOVEBOX_COPIES = builtins.toJSON (
            lib.optionals copies (
              map (
                copy: copy.entry // lib.optionalAttrs (copy.options != { }) { inherit (copy) options; }
              ) numbered
            )
          );
        };
    };
}
