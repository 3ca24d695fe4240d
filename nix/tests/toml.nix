# Writes TOML, in place of what nixpkgs' `formats.toml` builds: here the text is needed while evaluating, so that it is
# compared without building anything.
{ lib }:
let
  inherit (builtins)
    isAttrs
    isBool
    isInt
    isList
    isPath
    isFloat
    isString
    toJSON
    ;

  isFile = value: isAttrs value && value ? outPath;
  isTable = value: isAttrs value && !isFile value;
  isTables = value: isList value && value != [ ] && lib.all isTable value;

  key = name: if builtins.match "[A-Za-z0-9_-]+" name != null then name else toJSON name;

  # JSON's strings, numbers and booleans are TOML's.
  inline =
    path: value:
    if isString value || isBool value || isInt value || isFloat value then
      toJSON value
    # A file of the configuration, or something built: what it is in the store.
    else if isPath value || isFile value then
      toJSON "${value}"
    else if isList value then
      "[${lib.concatStringsSep ", " (map (inline path) value)}]"
    else if isAttrs value then
      "{ ${
        lib.concatStringsSep ", " (lib.mapAttrsToList (name: v: "${key name} = ${inline path v}") value)
      } }"
    else
      throw "`${path}` is a ${builtins.typeOf value}, which TOML has no form for";

  present = lib.filterAttrs (_: value: value != null);

  # Plain keys come first: below a header, a key belongs to that table.
  body =
    prefix: table:
    let
      entries = present table;
      plain = lib.filterAttrs (_: value: !isTable value && !isTables value) entries;
      tables = lib.filterAttrs (_: isTable) entries;
      arrays = lib.filterAttrs (_: isTables) entries;
      path = name: if prefix == "" then key name else "${prefix}.${key name}";
      section =
        header: path': table':
        if table' == { } then "" else "\n${header}\n${body path' table'}";
    in
    lib.concatStrings (
      lib.mapAttrsToList (name: value: "${key name} = ${inline (path name) value}\n") plain
    )
    + lib.concatStrings (
      lib.mapAttrsToList (name: value: section "[${path name}]" (path name) value) tables
    )
    + lib.concatStrings (
      lib.mapAttrsToList (
        name: value: lib.concatStrings (map (entry: section "[[${path name}]]" (path name) entry) value)
      ) arrays
    );
in
table: lib.removePrefix "\n" (body "" table)
