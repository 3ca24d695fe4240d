# The sandbox that every unit of Glovebox runs in. A function of what the unit has to reach.
{ lib }:
{
  # The database is reached over TCP on this machine; it or the repository is reached over the network.
  loopback,
  network,
  # Whether something that it reads or writes lies below /home, /root or /run/user.
  inHome,
}:
{
  # Nothing that is not named here can be written: the state directory, and `ReadWritePaths` of the unit.
  ProtectSystem = "strict";
  ProtectHome = if inHome then "read-only" else true;
  PrivateTmp = true;
  UMask = "0077";

  # No right beyond those of an ordinary account, and no way to get one.
  NoNewPrivileges = true;
  CapabilityBoundingSet = "";
  AmbientCapabilities = "";
  RestrictSUIDSGID = true;
  KeyringMode = "private";
  # Not `PrivateUsers`: extra files are kept with their owners, and all but two accounts would look like nobody's.

  # PostgreSQL, a directory and the network are all that is needed of the machine.
  PrivateDevices = true;
  DevicePolicy = "closed";
  ProtectClock = true;
  ProtectControlGroups = true;
  ProtectHostname = true;
  ProtectKernelLogs = true;
  ProtectKernelModules = true;
  ProtectKernelTunables = true;
  ProtectProc = "invisible";
  # Not `ProcSubset`: that hides the id of this boot, which tells runs of before a power cut from living ones, and who
  # holds a lock.

  # What a program that was taken over would reach for. A call that is not allowed fails, as it does without the right to
  # it: the alternative is to be killed in the middle of a backup by a library that only tries.
  LockPersonality = true;
  MemoryDenyWriteExecute = true;
  RestrictNamespaces = true;
  RestrictRealtime = true;
  SystemCallArchitectures = "native";
  SystemCallErrorNumber = "EPERM";
  SystemCallFilter = [
    "@system-service"
    "~@privileged @resources"
    # A drill confines the server that it loads into even further. By their names: old versions of systemd do not know
    # `@sandbox`.
    "landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp"
  ];

  # Not `RemoveIPC`: it removes whatever belongs to the account when the unit ends, and the account is shared with the
  # application, or with PostgreSQL itself. `PrivateIPC` keeps System V shared memory of the live server out of reach of a
  # drill's server, which the sandbox of the drill cannot, since a server needs some; what it leaves goes with the unit.
  PrivateIPC = true;

  # A core dump would hold secrets and rows.
  LimitCORE = 0;

  RestrictAddressFamilies = [
    "AF_UNIX"
  ]
  ++ lib.optionals (loopback || network) [
    "AF_INET"
    "AF_INET6"
  ];
}
// lib.optionalAttrs (!network) (
  {
    IPAddressDeny = "any";
  }
  // (if loopback then { IPAddressAllow = [ "localhost" ]; } else { PrivateNetwork = true; })
)
