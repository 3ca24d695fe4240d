# What working on Glovebox takes: the toolchain, PostgreSQL, and what the tests run.
{
  mkShell,
  rustc,
  cargo,
  clippy,
  rustfmt,
  rust-analyzer,
  cargo-deny,
  postgresql_17,
  restic,
  rclone,
  openssh,
  shellcheck,
  strace,
  zstd,
  nixfmt,
}:
mkShell {
  packages = [
    rustc
    cargo
    clippy
    rustfmt
    rust-analyzer
    cargo-deny
    postgresql_17
    restic
    rclone
    openssh
    shellcheck
    strace
    zstd
    nixfmt
  ];
}
