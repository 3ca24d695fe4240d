# TeslaMate's own module, of the checkout that TESLAMATE_SOURCE names, and what it asks of NixOS beyond nixos.nix. A function of
# the module's path and of its flake's package.
path: teslamate: [
  (import path { self.packages.x86_64-linux.default = teslamate; })
  (
    { lib, ... }:
    {
      options = {
        networking.domain = lib.mkOption {
          type = lib.types.nullOr lib.types.str;
          default = null;
        };
        services.grafana = lib.mkOption {
          type = lib.types.attrsOf lib.types.anything;
          default = { };
        };
      };
    }
  )
]
