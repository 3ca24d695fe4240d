use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::select;

use super::super::inputs::Text;
use super::super::keys::KEYS;
use super::*;

fn text(path: &str, content: &[u8], public: bool) -> Text {
    Text { path: path.into(), bytes: content.to_vec(), public }
}

fn inputs(config: &str, secrets: &str, environment: &[(&str, &str)]) -> Inputs {
    Inputs {
        config: Some(text("/c.toml", config.as_bytes(), true)),
        secrets: Some(text("/secrets", secrets.as_bytes(), false)),
        environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..Inputs::default()
    }
}

fn resolved(config: &str, secrets: &str, environment: &[(&str, &str)]) -> Settings {
    Settings::resolve(&inputs(config, secrets, environment)).expect("settings without a mistake")
}

/// Every mistake in these settings, a line each.
fn mistakes(config: &str, secrets: &str, environment: &[(&str, &str)]) -> String {
    Settings::resolve(&inputs(config, secrets, environment)).expect_err("settings with a mistake").to_string()
}

#[test]
fn without_anything_the_defaults_hold() {
    let settings = Settings::resolve(&Inputs::default()).unwrap();
    assert_eq!((settings.database.name.as_str(), settings.database.user.as_str()), ("teslamate", "teslamate"));
    assert_eq!(settings.database.address, Address::Socket("/run/postgresql".into()));
    assert_eq!((settings.database.port, settings.database.ssl), (5432, Ssl::Disable));
    assert!(settings.database.password.is_none() && settings.encryption_key.is_none());
    assert_eq!(settings.service.unit, "teslamate.service");
    assert_eq!(settings.state_dir, Path::new("/var/lib/glovebox"));
    assert!(settings.repository.is_none() && settings.copies.is_empty() && settings.warnings.is_empty());
}

#[test]
fn a_text_is_the_strongest_layers() {
    let config = "database.name = 'file'";
    let secrets = "DATABASE_NAME=secrets";
    let environment = [("DATABASE_NAME", "environment")];
    assert_eq!(resolved(config, "", &[]).database.name, "file");
    assert_eq!(resolved(config, secrets, &[]).database.name, "secrets");
    assert_eq!(resolved(config, secrets, &environment).database.name, "environment");
    let mut all = inputs(config, secrets, &environment);
    all.command_line.insert("database.name".into(), "command line".into());
    assert_eq!(Settings::resolve(&all).unwrap().database.name, "command line");
}

#[test]
fn an_address_is_the_strongest_layers_and_within_one_the_sockets() {
    let (socket, host) = (|| Address::Socket("/run/other".into()), || Address::Tcp("db".into()));
    let both = "database.host = 'db'\ndatabase.socket_dir = '/run/other'";
    assert_eq!(resolved(both, "", &[]).database.address, socket());
    let (config, environment) = ("database.socket_dir = '/run/other'", [("DATABASE_HOST", "db")]);
    assert_eq!(resolved(config, "DATABASE_HOST=db", &[]).database.address, host());
    assert_eq!(resolved(config, "", &environment).database.address, host());
    assert_eq!(resolved(config, "", &[("DATABASE_HOST", "")]).database.address, socket());
    let secrets = "DATABASE_HOST=db\nDATABASE_SOCKET_DIR=/run/other";
    assert_eq!(resolved("", secrets, &[]).database.address, socket());
    assert_eq!(resolved("", secrets, &environment).database.address, host());
}

#[test]
fn a_secret_is_the_environments_before_the_secrets_files() {
    let exposed = |settings: Settings| settings.database.password.map(|secret| secret.expose().to_owned());
    assert_eq!(exposed(resolved("", "DATABASE_PASS=one", &[])).as_deref(), Some("one"));
    assert_eq!(exposed(resolved("", "DATABASE_PASS=one", &[("DATABASE_PASS", "two")])).as_deref(), Some("two"));
}

#[test]
fn a_number_is_the_strongest_layers() {
    let config = "database.port = 1";
    assert_eq!(resolved(config, "", &[]).database.port, 1);
    assert_eq!(resolved(config, "DATABASE_PORT=2", &[]).database.port, 2);
    assert_eq!(resolved(config, "DATABASE_PORT=2", &[("DATABASE_PORT", "3")]).database.port, 3);
}

#[test]
fn the_kind_of_tls_is_the_strongest_layers() {
    let config = "database.ssl = true";
    assert_eq!(resolved(config, "", &[]).database.ssl, Ssl::Verify { ca: None });
    assert_eq!(resolved(config, "DATABASE_SSL=noverify", &[]).database.ssl, Ssl::NoVerify);
    let environment = [("DATABASE_SSL", "false")];
    assert_eq!(resolved(config, "DATABASE_SSL=noverify", &environment).database.ssl, Ssl::Disable);
}

#[test]
fn a_list_is_the_strongest_layers_as_a_whole() {
    let config = "backup.extra_files = ['/a', '/b']";
    let files = |settings: Settings| settings.backup.extra_files;
    assert_eq!(files(resolved(config, "", &[])), ["/a", "/b"].map(PathBuf::from));
    let secrets = r#"GLOVEBOX_BACKUP_EXTRA_FILES='["/c"]'"#;
    assert_eq!(files(resolved(config, secrets, &[])), [PathBuf::from("/c")]);
    let environment = [("GLOVEBOX_BACKUP_EXTRA_FILES", r#"["/d"]"#)];
    assert_eq!(files(resolved(config, secrets, &environment)), [PathBuf::from("/d")]);
}

#[test]
fn a_map_and_an_array_of_tables_are_the_strongest_layers_as_a_whole() {
    let config = "copies = [{ location = '/a', password_file = '/p' }]\n[repository]\nlocation = '/r'\n\
                  password_file = '/p'\noptions = { a = '1', b = '2' }";
    let secrets = r#"GLOVEBOX_REPOSITORY_OPTIONS='{"a": "3"}'"#;
    let environment = [
        ("GLOVEBOX_REPOSITORY_OPTIONS", r#"{"c": "4"}"#),
        (
            "GLOVEBOX_COPIES",
            r#"[{"location": "/x", "password_file": "/y"}, {"location": "/z", "password_file": "/y"}]"#,
        ),
    ];
    let options = |settings: &Settings| settings.repository.clone().unwrap().options;
    let file = resolved(config, "", &[]);
    assert_eq!((options(&file).len(), file.copies.len()), (2, 1));
    assert_eq!(options(&resolved(config, secrets, &[])), BTreeMap::from([("a".into(), "3".into())]));
    let strongest = resolved(config, secrets, &environment);
    assert_eq!(options(&strongest), BTreeMap::from([("c".into(), "4".into())]));
    assert_eq!(strongest.copies.len(), 2);
}

#[test]
fn the_state_directory_of_systemd_stands_below_every_setting() {
    let mut inputs = inputs("", "", &[]);
    inputs.state_directory = Some("/var/lib/a:/var/lib/b".into());
    assert_eq!(Settings::resolve(&inputs).unwrap().state_dir, Path::new("/var/lib/a"));
    inputs.environment.insert("GLOVEBOX_STATE_DIR".into(), "/mine".into());
    assert_eq!(Settings::resolve(&inputs).unwrap().state_dir, Path::new("/mine"));
}

#[test]
fn an_empty_variable_is_no_value() {
    assert_eq!(resolved("database.name = 'file'", "", &[("DATABASE_NAME", "")]).database.name, "file");
}

#[test]
fn every_mistake_is_reported_with_its_file_and_key() {
    let config = "database.nmae = 'x'\ndatabase.port = 70000\nstate_dir = 'here'\ndatabase.password = 'x'\n\
                  retention.keep_last = -1\n[[copies]]\nlocation = '/a'\npasword_file = '/b'";
    let text = mistakes(config, "DATABASE_SSL=maybe\nGLOVEBOX_BACKUP_JOBS=many", &[("GLOVEBOX_UNIT", "x")]);
    for line in [
        "the settings have 10 mistakes",
        "/c.toml: unknown key `database.nmae`; did you mean `database.name`?",
        "/c.toml: `database.port` must be a whole number from 1 to 65535",
        "/c.toml: `state_dir` must be an absolute path",
        "/c.toml: `database.password` is a secret and does not belong in this file: set DATABASE_PASS in the secrets file",
        "/c.toml: `retention.keep_last` must be a whole number from 0 to 100000",
        "/c.toml: unknown key `copies[0].pasword_file`; did you mean `password_file`?",
        "/c.toml: `copies[0]` must have `location` and `password_file`",
        "/secrets: `DATABASE_SSL` must be true, false or \"noverify\"",
        "/secrets: `GLOVEBOX_BACKUP_JOBS` must be a whole number from 0 to 64",
        "environment: unknown variable `GLOVEBOX_UNIT`; did you mean `GLOVEBOX_SERVICE_UNIT`?",
    ] {
        assert!(text.contains(line), "{line}\nnot in: {text}");
    }
}

#[test]
fn a_section_that_is_a_value_is_told_to_be_a_section() {
    let text = mistakes("database = 'teslamate'", "", &[]);
    assert!(text.contains("/c.toml: `database` must be a section"), "{text}");
}

#[test]
fn a_key_outside_its_section_is_led_to_it() {
    let text = mistakes("keep_daily = 7", "", &[]);
    assert!(text.contains("unknown key `keep_daily`; did you mean `retention.keep_daily`?"), "{text}");
}

#[test]
fn a_syntax_error_names_its_line() {
    let text = mistakes("[database]\nname = 'x'\nport = = 1", "", &[]);
    assert!(text.contains("/c.toml:3: "), "{text}");
}

#[test]
fn r85_a_secrets_file_that_systemd_refuses_is_refused() {
    let mut inputs = inputs("", "", &[]);
    inputs.secrets = Some(text("/secrets", b"A=1\nDATABASE_PASS=\xff\n", false));
    let text = Settings::resolve(&inputs).unwrap_err().to_string();
    assert!(text.contains("/secrets:2: "), "{text}");
}

#[test]
fn r88_a_secrets_file_for_everyone_is_a_warning_unless_it_is_a_credential() {
    let mut inputs = inputs("", "", &[]);
    inputs.secrets = Some(text("/secrets", b"", true));
    let warnings = Settings::resolve(&inputs).unwrap().warnings;
    assert!(warnings[0].contains("/secrets can be read by every account"), "{warnings:?}");
    inputs.secrets = Some(text("/run/credentials/a.service/secrets", b"", true));
    assert!(Settings::resolve(&inputs).unwrap().warnings.is_empty());
}

#[test]
fn both_halves_of_a_pair_are_asked_for() {
    for (config, key) in [
        ("repository.location = '/a'", "repository.location"),
        ("repository.password_file = '/a'", "repository.password_file"),
        ("service.stop = ['a']", "service.stop"),
        ("service.start = ['a']", "service.start"),
    ] {
        let text = mistakes(config, "", &[]);
        assert!(text.contains(&format!("`{key}` must be given together with")), "{text}");
    }
}

const CANARY: &str = "S3cr3t-7f1b";

/// A piece of a TOML file: settings right and wrong, with a secret in the place of any value.
fn toml_line() -> impl Strategy<Value = String> {
    let paths: Vec<&str> = KEYS.iter().map(|key| key.path).chain(["database", "copies", "x", "[database]"]).collect();
    let values = [
        "'S3cr3t-7f1b'",
        "\"S3cr3t-7f1b",
        "\"\\S3cr3t-7f1b\"",
        "S3cr3t-7f1b",
        "[ 'S3cr3t-7f1b', 1 ]",
        "{ location = 'S3cr3t-7f1b' }",
        "[{ options = { a = 'S3cr3t-7f1b' } }]",
        "'''S3cr3t-7f1b",
        "0xS3cr3t-7f1b",
        "1979-05-27",
        "1e400",
        "-9223372036854775808",
        "99999999999999999999",
        "nan",
        "true",
    ];
    (select(paths), select(vec![" = ", "=", " ", " = = ", "."]), select(values.to_vec()), "[ \\]\\}#']{0,2}")
        .prop_map(|(path, sign, value, tail)| format!("{path}{sign}{value}{tail}\n"))
}

/// A line of a secrets file, or a variable.
fn variable() -> impl Strategy<Value = (&'static str, String)> {
    let names: Vec<&str> = KEYS.iter().map(|key| key.env).chain(["GLOVEBOX_X", "OTHER"]).collect();
    let value = prop_oneof![Just(CANARY.to_owned()), "[\\[\\{\"',:S3cr3t\\-7f1b\\]\\}]{0,30}", any::<String>()];
    (select(names), value)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_files_and_variables_are_judged_without_panic(
        config in any::<Vec<u8>>(),
        secrets in any::<Vec<u8>>(),
        environment in proptest::collection::btree_map("(GLOVEBOX|DATABASE)_[A-Z_]{0,12}", any::<String>(), 0..5),
    ) {
        let _ = Settings::resolve(&Inputs {
            config: Some(text("/c", &config, true)),
            secrets: Some(text("/s", &secrets, false)),
            environment,
            ..Inputs::default()
        });
    }

    #[test]
    fn r87_no_value_is_repeated_in_a_mistake_or_a_warning(
        lines in proptest::collection::vec(toml_line(), 0..6),
        variables in proptest::collection::vec(variable(), 0..4),
        secrets in proptest::collection::vec(variable(), 0..4),
    ) {
        let secrets: Vec<String> = secrets.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        match Settings::resolve(&inputs(&lines.concat(), &secrets.concat(), &variables)) {
            Ok(settings) => prop_assert!(!settings.warnings.concat().contains("S3cr3t")),
            Err(error) => {
                prop_assert!(!error.to_string().contains("S3cr3t"), "{}", error);
                prop_assert_eq!(error.kind(), Kind::Usage);
            }
        }
    }
}

#[test]
fn r87_settings_print_no_secret() {
    let secrets = ["DATABASE_PASS", "ENCRYPTION_KEY", "RELEASE_COOKIE"].map(|name| format!("{name}={CANARY}\n"));
    let printed = format!("{:?}", resolved("", &secrets.concat(), &[]));
    assert!(printed.contains("***") && !printed.contains(CANARY), "{printed}");
}

#[test]
fn r87_a_storages_credentials_are_its_own_files_then_the_environments() {
    let config = "[repository]\nlocation = 's3:https://host/bucket'\npassword_file = '/p'\nenvironment_file = '/one'\n\
                  [[copies]]\nlocation = '/srv/copy'\npassword_file = '/p'\nenvironment_file = '/two'\n";
    let mut inputs = inputs(config, "", &[]);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        inputs.storage.insert(name.into(), "environment".into());
    }
    let one = b"AWS_SECRET_ACCESS_KEY='c4nary'\nexport c4nary=1\n";
    inputs.environment_files.insert("/one".into(), text("/one", one, true));
    let settings = Settings::resolve(&inputs).unwrap();
    let shown = |repository: &Repository| {
        repository.environment.iter().map(|(name, value)| format!("{name}={}", value.expose())).collect::<Vec<_>>()
    };
    let repository = settings.repository.clone().unwrap();
    assert_eq!(shown(&repository), ["AWS_ACCESS_KEY_ID=environment", "AWS_SECRET_ACCESS_KEY=c4nary"]);
    assert_eq!(shown(&settings.copies[0]), ["AWS_ACCESS_KEY_ID=environment", "AWS_SECRET_ACCESS_KEY=environment"]);
    assert_eq!(repository.lock_dir, Path::new("/var/lib/glovebox/locks"));
    let warned = settings.warnings.join("\n");
    assert!(warned.contains("/one:2:") && warned.contains("/one can be read by every account"), "{warned}");
    assert!(!format!("{settings:?}").contains("c4nary"), "{settings:?}");

    inputs.environment_files.insert("/one".into(), text("/one", b"A=\xff\n", false));
    let error = Settings::resolve(&inputs).unwrap_err();
    assert!(error.kind() == Kind::Usage && error.to_string().contains("/one:1:"), "{error}");
    let relative = "[[copies]]\nlocation = '/x'\npassword_file = '/p'\nenvironment_file = 'x'\n";
    assert!(mistakes(relative, "", &[]).contains("`copies[0]` must have"));
}
