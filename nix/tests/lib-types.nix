# The types of the stand-in for nixpkgs' `lib`, and how their values merge. A function of what lib.nix knows of definitions and
# modules.
{
  decide,
  evalAt,
  filterAttrs,
  findFirst,
  hasPrefix,
  pushDown,
  strongest,
  zip,
}:
let
  inherit (builtins)
    all
    any
    concatLists
    concatMap
    concatStringsSep
    elem
    elemAt
    filter
    head
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isPath
    isString
    length
    mapAttrs
    ;

  place = concatStringsSep ".";
  mkOptionType =
    type:
    {
      _type = "option-type";
      check = _: true;
      merge = mergeEqualOption;
      getSubOptions = _: { };
    }
    // type;
  mergeEqualOption =
    loc: definitions:
    let
      first = (head definitions).value;
    in
    # A single one is not looked into: what it holds may be wrong, and nobody may want it.
    if length definitions == 1 || all ({ value, ... }: value == first) definitions then
      first
    else
      throw "The option `${place loc}' has conflicting definition values";
  checked =
    loc: type: definitions:
    let
      wrong = filter ({ value, ... }: !type.check value) definitions;
    in
    if wrong == [ ] then
      type.merge loc definitions
    else
      throw "A definition for option `${place loc}' is not of type `${type.description}'";

  isStringLike = value: isString value || isPath value || (isAttrs value && value ? outPath);
  whole =
    name: description: check:
    mkOptionType {
      inherit name description;
      check = value: isInt value && check value;
    };
  types = rec {
    bool = mkOptionType {
      description = "boolean";
      check = isBool;
    };
    int = whole "int" "signed integer" (_: true);
    ints.unsigned = whole "unsigned" "unsigned integer, meaning >=0" (value: value >= 0);
    port = whole "port" "16 bit unsigned integer; between 0 and 65535 (both inclusive)" (
      value: value >= 0 && value <= 65535
    );
    str = mkOptionType {
      description = "string";
      check = isString;
    };
    lines = str;
    path = mkOptionType {
      description = "absolute path";
      check = value: isStringLike value && hasPrefix "/" (toString value);
    };
    externalPath = mkOptionType {
      name = "externalPath";
      description = "absolute path not in the Nix store";
      descriptionClass = "noun";
      check = value: isString value && hasPrefix "/" value && !hasPrefix "${builtins.storeDir}/" value;
    };
    package = mkOptionType {
      description = "package";
      check = value: isAttrs value && (value.type or null) == "derivation";
    };
    enum =
      values:
      mkOptionType {
        description = "one of ${concatStringsSep ", " (map builtins.toJSON values)}";
        check = value: elem value values;
      };
    nullOr =
      type:
      mkOptionType {
        description = "null or ${type.description}";
        check = value: value == null || type.check value;
        merge =
          loc: definitions:
          if all ({ value, ... }: value == null) definitions then null else checked loc type definitions;
      };
    oneOf =
      choices:
      mkOptionType {
        description = concatStringsSep " or " (map (type: type.description) choices);
        check = value: any (type: type.check value) choices;
        merge =
          loc: definitions:
          (findFirst (type: all ({ value, ... }: type.check value) definitions) {
            merge = mergeEqualOption;
          } choices).merge
            loc
            definitions;
      };
    listOf =
      type:
      mkOptionType {
        description = "list of ${type.description}";
        check = isList;
        getSubOptions = prefix: type.getSubOptions (prefix ++ [ "*" ]);
        merge =
          loc: definitions:
          concatLists (
            map (
              { value, ... }:
              concatMap (entry: map (definition: checked loc type [ definition ]) (decide entry)) value
            ) definitions
          );
      };
    attrsOf =
      type:
      mkOptionType {
        description = "attribute set of ${type.description}";
        check = isAttrs;
        merge =
          loc: definitions:
          let
            found = mapAttrs (_: values: strongest (concatMap decide values)) (
              zip (concatMap ({ value, ... }: pushDown value) definitions)
            );
          in
          mapAttrs (name: checked (loc ++ [ name ]) type) (filterAttrs (_: values: values != [ ]) found);
      };
    unspecified = mkOptionType {
      description = "unspecified value";
    };
    anything = mkOptionType {
      description = "anything";
      merge =
        loc: definitions:
        if all ({ value, ... }: isAttrs value) definitions then
          (attrsOf anything).merge loc definitions
        else
          mergeEqualOption loc definitions;
    };
    submodule =
      module:
      mkOptionType {
        description = "submodule";
        check = value: isAttrs value || isFunction value;
        getSubOptions =
          prefix:
          (evalAt prefix {
            modules = [ module ];
            specialArgs.name = "*";
          }).options;
        merge =
          loc: definitions:
          (evalAt loc {
            modules =
              map ({ value, ... }: if isFunction value then value else { config = value; }) definitions
              ++ [ module ];
            specialArgs.name = elemAt loc (length loc - 1);
          }).config;
      };
  };
in
{
  inherit
    checked
    mergeEqualOption
    mkOptionType
    place
    types
    ;
}
