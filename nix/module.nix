# `services.glovebox`: backups of TeslaMate's database by timer, proof that they restore, guarded migrations.
#
# What is derived from the options, and used by more than one part, is in `module/context.nix`.
{
  imports = [
    ./module/options.nix
    ./module/timers.nix
    ./module/assertions.nix
    ./module/guard-assertions.nix
    ./module/warnings.nix
    ./module/system.nix
    ./module/units.nix
    ./module/application.nix
  ];
}
