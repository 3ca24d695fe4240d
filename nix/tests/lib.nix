# A stand-in for the part of nixpkgs' `lib` that the module uses, so that it evaluates where there is no nixpkgs.
#
# It is written for this module and is no replacement: options are declared once, types check their values, and values
# merge by priority, as far as the module and its tests need. `nix/tests/run` evaluates the same configurations with the
# real `lib`, where NIXPKGS_LIB names one, and expects the same result.
let
  inherit (builtins)
    all
    any
    attrNames
    attrValues
    concatLists
    concatMap
    concatStringsSep
    elem
    elemAt
    filter
    foldl'
    functionArgs
    genList
    head
    intersectAttrs
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isPath
    isString
    length
    listToAttrs
    mapAttrs
    removeAttrs
    replaceStrings
    stringLength
    substring
    ;

  # Lists, attribute sets, strings

  optional = condition: value: if condition then [ value ] else [ ];
  optionals = condition: values: if condition then values else [ ];
  optionalAttrs = condition: attrs: if condition then attrs else { };
  optionalString = condition: text: if condition then text else "";
  toList = value: if isList value then value else [ value ];
  unique = foldl' (seen: value: if elem value seen then seen else seen ++ [ value ]) [ ];
  findFirst =
    check: default: values:
    let
      found = filter check values;
    in
    if found == [ ] then default else head found;
  imap1 = f: values: genList (index: f (index + 1) (elemAt values index)) (length values);

  genAttrs = names: f: listToAttrs (map (name: nameValuePair name (f name)) names);

  nameValuePair = name: value: { inherit name value; };
  mapAttrsToList = f: attrs: map (name: f name attrs.${name}) (attrNames attrs);
  mapAttrs' = f: attrs: listToAttrs (mapAttrsToList f attrs);
  filterAttrs =
    check: attrs:
    listToAttrs (
      concatMap (name: optional (check name attrs.${name}) (nameValuePair name attrs.${name})) (
        attrNames attrs
      )
    );
  # Every name, with the list of its values, in the order of the sets.
  zip =
    sets:
    let
      names = unique (concatMap attrNames sets);
    in
    listToAttrs (
      map (name: nameValuePair name (concatMap (set: optional (set ? ${name}) set.${name}) sets)) names
    );
  recursiveUpdate =
    left: right:
    left
    // mapAttrs (
      name: value:
      if isAttrs value && isAttrs (left.${name} or null) then
        recursiveUpdate left.${name} value
      else
        value
    ) right;

  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
  hasSuffix =
    suffix: text:
    let
      rest = stringLength text - stringLength suffix;
    in
    rest >= 0 && substring rest (stringLength suffix) text == suffix;
  removePrefix =
    prefix: text: if hasPrefix prefix text then substring (stringLength prefix) (-1) text else text;
  removeSuffix =
    suffix: text:
    if hasSuffix suffix text then substring 0 (stringLength text - stringLength suffix) text else text;
  concatStrings = concatStringsSep "";
  splitString = separator: text: filter isString (builtins.split (escapeRegex separator) text);
  escapeRegex =
    let
      special = [
        "\\"
        "."
        "+"
        "*"
        "?"
        "("
        ")"
        "["
        "]"
        "{"
        "}"
        "^"
        "$"
        "|"
      ];
    in
    replaceStrings special (map (c: "\\${c}") special);

  # Priorities and conditions

  is = tag: value: isAttrs value && (value._type or null) == tag;
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };

  # A set of definitions with conditions at its top, as plain sets whose values carry them. Nothing is decided here: a
  # condition may depend on the very values that are looked for.
  pushDown =
    value:
    if is "merge" value then
      concatMap pushDown value.contents
    else if is "if" value then
      map (mapAttrs (_: mkIf value.condition)) (pushDown value.content)
    else if is "override" value then
      map (mapAttrs (_: mkOverride value.priority)) (pushDown value.content)
    else
      [ value ];

  # The definitions of one option, decided: each with its priority.
  decide =
    value:
    if is "merge" value then
      concatMap decide value.contents
    else if is "if" value then
      optionals value.condition (decide value.content)
    else if is "override" value then
      map (definition: definition // { inherit (value) priority; }) (decide value.content)
    # Where in a list it goes is for the real one.
    else if is "order" value then
      decide value.content
    else
      [
        {
          inherit value;
          priority = 100;
        }
      ];

  strongest =
    definitions:
    let
      best = foldl' (
        least: { priority, ... }: if priority < least then priority else least
      ) 10000 definitions;
    in
    filter ({ priority, ... }: priority == best) definitions;

  # Types

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

  # Options and modules

  mkOption = attrs: attrs // { _type = "option"; };

  evalAt =
    prefix:
    {
      modules,
      specialArgs ? { },
    }:
    let
      arguments = {
        inherit config lib;
        options = tree;
      }
      // specialArgs;
      # As with nixpkgs, these reach only a function that names them.
      named = foldl' (sum: module: sum // module._module.args or { }) { } (filter isAttrs modules);
      load = module: if isPath module || isString module then load (import module) else module;
      body =
        module:
        let
          loaded = load module;
          plain =
            if isFunction loaded then
              loaded (arguments // intersectAttrs (functionArgs loaded) named)
            else
              removeAttrs loaded [ "_module" ];
          imports = plain.imports or [ ];
        in
        if plain ? config || plain ? options then
          plain // { inherit imports; }
        else
          {
            config = removeAttrs plain [ "imports" ];
            inherit imports;
          };
      # What a module imports comes after all modules beside it, as with nixpkgs.
      collect =
        modules:
        let
          bodies = map body modules;
        in
        optionals (modules != [ ]) (bodies ++ collect (concatMap (module: module.imports) bodies));
      collected = collect modules;

      declare =
        trees:
        mapAttrs (
          _: nodes: if any (is "option") nodes then findFirst (is "option") null nodes else declare nodes
        ) (zip trees);
      declared = declare (map (module: module.options or { }) collected);

      evaluate =
        loc: node: definitions:
        let
          own =
            concatMap decide definitions ++ optionals (node ? default) (decide (mkOverride 1500 node.default));
          best = strongest own;
          value =
            if best == [ ] then
              throw "The option `${place loc}' was accessed but has no value defined. Try setting the option."
            else
              checked loc node.type best;
        in
        node
        // {
          value = if node ? apply then node.apply value else value;
          isDefined = best != [ ];
          # Before they are merged.
          definitions = map (definition: definition.value) best;
        };
      build =
        loc: nodes: definitions:
        let
          plain = concatMap pushDown definitions;
          strangers = filter (name: !(nodes ? ${name})) (unique (concatMap attrNames plain));
        in
        if strangers != [ ] then
          throw "The option `${place (loc ++ [ (head strangers) ])}' does not exist"
        else
          mapAttrs (
            name: node:
            let
              values = concatMap (set: optional (set ? ${name}) set.${name}) plain;
            in
            (if is "option" node then evaluate else build) (loc ++ [ name ]) node values
          ) nodes;
      tree = build prefix declared (map (module: module.config or { }) collected);
      values = mapAttrs (_: node: if is "option" node then node.value else values' node);
      values' = values;
      config = values tree;
    in
    {
      inherit config;
      options = tree;
    };

  lib = {
    inherit
      all
      any
      attrNames
      attrValues
      concatLists
      concatMap
      concatStrings
      concatStringsSep
      elem
      filter
      filterAttrs
      findFirst
      genAttrs
      hasPrefix
      hasSuffix
      head
      imap1
      intersectAttrs
      isString
      length
      listToAttrs
      mapAttrs
      mapAttrs'
      mapAttrsToList
      mergeEqualOption
      mkIf
      mkMerge
      mkOption
      mkOptionType
      mkOverride
      nameValuePair
      optional
      optionalAttrs
      optionalString
      optionals
      recursiveUpdate
      removePrefix
      removeSuffix
      replaceStrings
      splitString
      toList
      types
      unique
      ;
    mkForce = mkOverride 50;
    mkBefore = content: {
      _type = "order";
      priority = 500;
      inherit content;
    };
    mkDefault = mkOverride 1000;
    mkOptionDefault = mkOverride 1500;
    mkEnableOption =
      what:
      mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = "Whether to enable ${what}.";
      };
    mkPackageOption =
      pkgs: name:
      {
        pkgsText ? "pkgs",
        extraDescription ? "",
      }:
      mkOption {
        type = types.package;
        default = pkgs.${name};
        defaultText = lib.literalExpression "${pkgsText}.${name}";
        description = "The ${name} package to use. ${extraDescription}";
      };
    literalExpression = text: {
      _type = "literalExpression";
      inherit text;
    };
    versionOlder = left: right: builtins.compareVersions left right < 0;
    versionAtLeast = left: right: builtins.compareVersions left right >= 0;
    hiPrio = package: package // { priority = -10; };
    evalModules = evalAt [ ];
  };
in
lib
