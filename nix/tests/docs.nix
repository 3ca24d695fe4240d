# docs/nixos-options.md: every option of the module with its type, default, example and description.
{ lib, options }:
let
  isOption = node: (node._type or null) == "option";

  indent =
    text:
    lib.concatStringsSep "\n" (
      map (line: if line == "" then "" else "  ${line}") (lib.splitString "\n" text)
    );

  # A value as it is written in Nix.
  nix =
    value:
    if (value._type or null) == "literalExpression" then
      value.text
    else if builtins.isAttrs value then
      if value == { } then
        "{ }"
      else
        "{\n${
          indent (lib.concatStringsSep "\n" (lib.mapAttrsToList (name: v: "${name} = ${nix v};") value))
        }\n}"
    else if builtins.isList value then
      if value == [ ] then "[ ]" else "[\n${indent (lib.concatStringsSep "\n" (map nix value))}\n]"
    else if value == null then
      "null"
    else
      builtins.toJSON value;

  # {option}`name` is the NixOS manual's way of naming one.
  plain = lib.replaceStrings [ "{option}`" ] [ "`" ];

  shown =
    label: value:
    let
      text = nix value;
    in
    if lib.hasPrefix "{\n" text || lib.hasPrefix "[\n" text then
      "${label}:\n\n```nix\n${text}\n```\n\n"
    else
      "${label}: `${text}`\n\n";

  entry =
    name: option:
    "## `${name}`\n\n"
    + "${lib.removeSuffix "\n" (plain option.description)}\n\n"
    + "Type: ${option.type.description}\n\n"
    + (
      if option ? defaultText then
        shown "Default" option.defaultText
      else if option ? default then
        shown "Default" option.default
      else
        ""
    )
    + (if option ? example then shown "Example" option.example else "")
    + walk "${name}.*" (option.type.getSubOptions [ ]);

  walk =
    prefix: nodes:
    lib.concatStrings (
      lib.mapAttrsToList (
        name: node: if isOption node then entry "${prefix}.${name}" node else walk "${prefix}.${name}" node
      ) nodes
    );
in
''
  # Options of `services.glovebox`

  Generated from the module by nix/tests/generate. How to use it: [nixos.md](nixos.md).

''
+ lib.removeSuffix "\n" (walk "services.glovebox" options)
