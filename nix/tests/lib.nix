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
    isFunction
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

  inherit
    (import ./lib-types.nix {
      inherit
        decide
        evalAt
        filterAttrs
        findFirst
        hasPrefix
        pushDown
        strongest
        zip
        ;
    })
    checked
    mergeEqualOption
    mkOptionType
    place
    types
    ;

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
