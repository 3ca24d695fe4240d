# The programs, with their manual pages and completions.
#
# `pkgs.callPackage ./package.nix { }`, in the flake and without it.
{
  lib,
  stdenv,
  rustPlatform,
  installShellFiles,
}:
let
  target = stdenv.hostPlatform.rust.rustcTargetSpec;
  # A build for another architecture cannot run what it has built.
  canRun = stdenv.buildPlatform.canExecute stdenv.hostPlatform;
  manifest = lib.importTOML ../Cargo.toml;
in
rustPlatform.buildRustPackage {
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

  # Written from the programs' own definitions of their command lines, so nothing can be missing. For the same target and
  # profile as the build before it, so that what is compiled anew is little.
  postBuild = lib.optionalString canRun ''
    cargo run --offline --profile release --target ${target} --features man --bin glovebox-man -- "$PWD/manual"
  '';

  postInstall = ''
    # Made for the step above, no program for anybody's PATH.
    rm -f "$out/bin/glovebox-man"
  ''
  + lib.optionalString canRun ''
    installManPage manual/man/*.1
    installShellCompletion --bash manual/completions/bash/*
    installShellCompletion --zsh manual/completions/zsh/*
    installShellCompletion --fish manual/completions/fish/*
  '';

  meta = {
    inherit (manifest.package) description;
    license = lib.licenses.mit;
    mainProgram = "teslamate-backup";
    platforms = lib.platforms.linux;
  };
}
