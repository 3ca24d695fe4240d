# The programs, with their manual pages and completions.
#
# `pkgs.callPackage ./package.nix { }`, in the flake and without it.
{
  lib,
  stdenv,
  rustPlatform,
  installShellFiles,
  versionCheckHook,
  testers,
}:
let
  # A build for another architecture cannot run what it has built.
  canRun = stdenv.buildPlatform.canExecute stdenv.hostPlatform;
  manifest = lib.importTOML ../Cargo.toml;
  machines = [
    "backup-by-timer"
    "restore"
    "migrations"
    "without-teslamate-module"
  ];
in
rustPlatform.buildRustPackage (finalAttrs: {
  pname = manifest.package.name;
  inherit (manifest.package) version;

  # Only what goes into the build: a change of the docs or of this directory compiles nothing.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../Cargo.toml
      ../Cargo.lock
      ../src
      # Cargo.toml names them as targets, so cargo wants them to be there.
      ../benches
      ../tests/integration
      ../tests/fixtures
    ];
  };
  cargoLock.lockFile = ../Cargo.lock;

  nativeBuildInputs = [ installShellFiles ];

  # The tests beside the code. Those in tests/ start PostgreSQL, S3 and SSH servers of their own, some as root in
  # containers, for which a build's sandbox has no room; the flake's checks run the programs on whole machines instead.
  cargoTestFlags = [ "--lib" ];

  # Manual pages and completions are written from the programs' own definitions of their command lines, so nothing can be
  # missing, by a program that was made for this and is for nobody's PATH.
  postInstall =
    lib.optionalString canRun ''
      "$out/bin/glovebox-man" manual
      installManPage manual/man/*.1
      installShellCompletion --bash manual/completions/bash/*
      installShellCompletion --zsh manual/completions/zsh/*
      installShellCompletion --fish manual/completions/fish/*
    ''
    + ''
      rm "$out/bin/glovebox-man"
    '';

  # The program says its version.
  nativeInstallCheckInputs = lib.optional canRun versionCheckHook;
  doInstallCheck = canRun;

  # Whole machines, with this very package.
  passthru.tests = lib.genAttrs machines (
    name:
    testers.runNixOSTest (
      import (./vm-tests + "/${name}.nix") {
        self.nixosModules.default = {
          imports = [ ./module.nix ];
          services.glovebox.package = lib.mkDefault finalAttrs.finalPackage;
        };
      }
    )
  );

  meta = {
    inherit (manifest.package) description;
    license = lib.licenses.mit;
    mainProgram = "teslamate-backup";
    platforms = lib.platforms.linux;
  }
  # Once the project has an address.
  // lib.optionalAttrs (manifest.package ? repository) {
    homepage = manifest.package.repository;
    changelog = "${manifest.package.repository}/blob/v${finalAttrs.version}/CHANGELOG.md";
  };
})
