{
  description = "Backup, restore and guarded migrations for TeslaMate's PostgreSQL database";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      perSystem =
        f:
        lib.genAttrs [
          "x86_64-linux"
          "aarch64-linux"
        ] (system: f nixpkgs.legacyPackages.${system});
    in
    {
      packages = perSystem (pkgs: rec {
        glovebox = pkgs.callPackage ./nix/package.nix { };
        default = glovebox;
      });

      overlays.default = final: _: {
        glovebox = final.callPackage ./nix/package.nix { };
      };

      nixosModules.default = ./nix/module.nix;

      checks = perSystem (pkgs: import ./nix/checks.nix { inherit pkgs self; });

      devShells = perSystem (pkgs: {
        default = pkgs.callPackage ./nix/shell.nix { };
      });

      formatter = perSystem (pkgs: pkgs.nixfmt-tree);
    };
}
