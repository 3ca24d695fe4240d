# What flake.nix offers, as a list: it is called with stand-ins for nixpkgs, because neither a network nor a builder is
# there to make anything of it; and the scripts of the VM tests, so that a mistake in one shows without a VM.
{ lib }:
let
  # The package's own definition, with what it asks of nixpkgs as it is asked for.
  package = import ../package.nix {
    lib = lib // {
      fileset = {
        toSource = source: source;
        unions = files: map toString files;
      };
      importTOML = file: builtins.fromTOML (builtins.readFile file);
      licenses.mit = "MIT";
      platforms.linux = [ "linux" ];
    };
    stdenv = {
      buildPlatform.canExecute = _: true;
      hostPlatform = { };
    };
    rustPlatform.buildRustPackage =
      definition:
      let
        final = definition (final // { finalPackage = "/nix/store/glovebox"; });
      in
      final;
    installShellFiles = "installShellFiles";
    versionCheckHook = "versionCheckHook";
    testers.runNixOSTest = test: test;
  };
  isIn =
    name:
    let
      path = toString ../.. + "/${name}";
    in
    lib.any (wanted: path == wanted || lib.hasPrefix "${wanted}/" path) package.src.fileset;
  sources = lib.filter isIn [
    "Cargo.lock"
    "Cargo.toml"
    "README.md"
    "benches/backup.rs"
    "docs/nixos.md"
    "nix/package.nix"
    "src/lib.rs"
    "target"
    "tests/fixtures/data.sql"
    "tests/fuzz"
    "tests/integration/main.rs"
  ];

  # Whatever a function of ours asks of nixpkgs is a name.
  callPackage =
    file: _:
    let
      inputs = "from ${lib.concatStringsSep ", " (lib.attrNames (builtins.functionArgs (import file)))}";
    in
    if baseNameOf file == "package.nix" then
      {
        outPath = inputs;
        tests = lib.mapAttrs (_: test: test.name) package.passthru.tests;
      }
    else
      inputs;
  system = name: {
    inherit callPackage lib;
    bubblewrap = "";
    diffutils = "";
    nix = "";
    nixfmt = "";
    nixfmt-tree = "nixfmt-tree";
    path = "/nixpkgs";
    python3 = "";
    runCommand =
      name: _: _:
      name;
    stdenv.hostPlatform.system = name;
    systemd = "";
  };
  self = {
    outPath = "/glovebox";
    inherit (outputs) packages;
  };
  outputs = (import ../../flake.nix).outputs {
    inherit self;
    nixpkgs = {
      inherit lib;
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] system;
    };
  };
  overlay = outputs.overlays.default { inherit callPackage; } { };

  leaves =
    path: value:
    if builtins.isAttrs value && value ? outPath then
      [ "${path}: ${value.outPath}\n" ]
    else if builtins.isAttrs value then
      lib.concatLists (lib.mapAttrsToList (name: leaves "${path}.${name}") value)
    else
      [ "${path}: ${if builtins.isPath value then baseNameOf value else value}\n" ];

  script =
    test:
    let
      body = test.testScript;
    in
    if builtins.isFunction body then
      body { nodes.machine.system.build.toplevel = "/run/current-system"; }
    else
      body;
in
{
  files = {
    "outputs.txt" = lib.concatStrings (
      lib.concatLists (
        lib.mapAttrsToList leaves (
          {
            inherit (outputs)
              checks
              devShells
              formatter
              nixosModules
              packages
              ;
          }
          // {
            overlays.default = overlay;
          }
        )
      )
    );
  }
  // {
    "package.txt" =
      lib.concatStringsSep "\n" [
        "${package.pname} ${package.version}: ${package.meta.description} (${package.meta.license})"
        "main program: ${package.meta.mainProgram}"
        "tests: ${lib.concatStringsSep " " package.cargoTestFlags}"
        "after the installation: ${lib.concatStringsSep ", " package.nativeInstallCheckInputs}"
        "whole machines: ${lib.concatStringsSep ", " (lib.attrNames package.passthru.tests)}"
        "of these, in its source: ${lib.concatStringsSep ", " sources}"
        package.postInstall
      ]
      + "\n";
  };

  scripts = lib.mapAttrs' (
    name: test: lib.nameValuePair "vm-${name}.py" (script test)
  ) package.passthru.tests;
}
