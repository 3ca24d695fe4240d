//! Properties of the database in a dump: the statements that `pg_dump --create` writes, and `pg_restore --create` gets
//! from any archive. They are read, never run.

use crate::database::Properties;
use crate::database::properties::is_name_list;
use crate::dump::scan::{Statement, quoted};

/// A piece of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A word, as it is written.
    Word(String),
    /// A name in double quotes.
    Name(String),
    /// A string.
    Text(String),
    /// Anything else.
    Sign(char),
}

impl Token {
    fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(found) if found.eq_ignore_ascii_case(word))
    }

    /// As a name.
    fn name(&self) -> Option<String> {
        match self {
            Self::Word(word) => Some(word.to_lowercase()),
            Self::Name(name) => Some(name.clone()),
            Self::Text(_) | Self::Sign(_) => None,
        }
    }

    /// As a value: a string without its quotes, or a word.
    fn value(&self) -> Option<String> {
        match self {
            Self::Word(text) | Self::Name(text) | Self::Text(text) => Some(text.clone()),
            Self::Sign(_) => None,
        }
    }
}

/// Notes what a statement about the database says of it. What is not understood is left out.
pub fn learn(properties: &mut Option<Properties>, statement: &Statement<'_>) {
    learn_text(properties, &statement.decoded(), statement.escapes);
}

fn learn_text(properties: &mut Option<Properties>, text: &str, escapes: bool) {
    let tokens = tokens(text, escapes);
    let words: Vec<String> =
        tokens.iter().take(3).map(|token| token.value().unwrap_or_default().to_uppercase()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let ["CREATE", "DATABASE", _] = words.as_slice() {
        *properties = Some(create(&tokens[3..]));
        return;
    }
    // A statement of a database that the dump does not make is of another one.
    let Some(properties) = properties else { return };
    match words.as_slice() {
        ["ALTER", "DATABASE", _] => alter(properties, "", &tokens[3..]),
        ["ALTER", "ROLE" | "USER", _] => {
            if let ([_, _, role, within, database, _, rest @ ..], true) = (tokens.as_slice(), tokens.len() > 6)
                && within.is("IN")
                && database.is("DATABASE")
            {
                alter(properties, &role.name().unwrap_or_default(), rest);
            }
        }
        ["COMMENT", "ON", "DATABASE"] => {
            properties.comment = tokens.iter().find_map(|token| match token {
                Token::Text(text) => Some(text.clone()),
                _ => None,
            });
        }
        ["SECURITY", "LABEL", "FOR"] => {
            if let (Some(provider), Some(Token::Text(label))) = (tokens.get(3).and_then(Token::value), tokens.last()) {
                properties.label(provider, label.clone());
            }
        }
        // `pg_dump` gives as the role that gave.
        ["SET", "SESSION", "AUTHORIZATION"] => {
            properties.gives = tokens.get(3).filter(|role| !role.is("DEFAULT")).and_then(|role| match role {
                Token::Text(role) => Some(role.clone()),
                role => role.name(),
            });
        }
        ["RESET", "SESSION", "AUTHORIZATION"] => properties.gives = None,
        ["GRANT" | "REVOKE", ..] => privileges(properties, &tokens),
        _ => {}
    }
}

/// The options of `CREATE DATABASE name`.
fn create(tokens: &[Token]) -> Properties {
    let mut properties = Properties::default();
    let mut locale = None;
    let options: Vec<&Token> = tokens.iter().filter(|token| !token.is("WITH") && **token != Token::Sign('=')).collect();
    for pair in options.chunks_exact(2) {
        let Some(value) = pair[1].value() else { continue };
        match pair[0].value().unwrap_or_default().to_uppercase().as_str() {
            "ENCODING" => properties.set("encoding", &value),
            "LOCALE" => {
                properties.set("datcollate", &value);
                properties.set("datctype", &value);
                locale = Some(value);
            }
            "LC_COLLATE" => properties.set("datcollate", &value),
            "LC_CTYPE" => properties.set("datctype", &value),
            "LOCALE_PROVIDER" => {
                let letter = match value.to_lowercase().as_str() {
                    "icu" => "i",
                    "builtin" => "b",
                    _ => "c",
                };
                properties.set("datlocprovider", letter);
            }
            "ICU_LOCALE" | "BUILTIN_LOCALE" => properties.set("datlocale", &value),
            "ICU_RULES" => properties.set("daticurules", &value),
            "TABLESPACE" => properties.tablespace = pair[1].name().unwrap_or_default(),
            "OWNER" => properties.owner = pair[1].name().unwrap_or_default(),
            _ => {}
        }
    }
    if properties.get("datlocprovider").is_none() {
        // Before PostgreSQL 15 there was no other.
        properties.set("datlocprovider", "c");
    }
    if let (Some(locale), true, None) =
        (locale, properties.get("datlocprovider") != Some("c"), properties.get("datlocale"))
    {
        properties.set("datlocale", &locale);
    }
    properties
}

/// Reads the rest of a statement after `ALTER DATABASE name`, or `ALTER ROLE role IN DATABASE name`.
fn alter(properties: &mut Properties, role: &str, tokens: &[Token]) {
    let value = |at: usize| tokens[at..].iter().find(|token| **token != Token::Sign('='));
    match tokens {
        [first, second, owner] if first.is("OWNER") && second.is("TO") => {
            properties.owner = owner.name().unwrap_or_default();
        }
        [first, second, ..] if first.is("CONNECTION") && second.is("LIMIT") => {
            // A negative number is a sign and a word.
            let number: String = tokens[2..].iter().filter_map(Token::value).collect();
            let sign = if tokens.contains(&Token::Sign('-')) { "-" } else { "" };
            properties.set("datconnlimit", &format!("{sign}{number}"));
        }
        [first, ..] if first.is("IS_TEMPLATE") => {
            let set = value(1).is_some_and(|value| value.is("true"));
            properties.set("datistemplate", if set { "true" } else { "false" });
        }
        [first, second, tablespace] if first.is("SET") && second.is("TABLESPACE") => {
            properties.tablespace = tablespace.name().unwrap_or_default();
        }
        [first, rest @ ..] if first.is("SET") => {
            let Some(at) = rest.iter().position(|token| token.is("TO") || *token == Token::Sign('=')) else { return };
            let name: Vec<String> = rest[..at].iter().filter_map(Token::value).collect();
            let items: Vec<String> = rest[at + 1..].iter().filter_map(Token::value).collect();
            let name = name.join(".");
            let value = if is_name_list(&name) {
                items.iter().map(|item| format!("\"{}\"", item.replace('"', "\"\""))).collect::<Vec<_>>().join(", ")
            } else {
                items.concat()
            };
            properties.settings.push((role.to_owned(), name, value));
        }
        _ => {}
    }
}

/// `GRANT … ON DATABASE … TO …`, `REVOKE … ON DATABASE … FROM …`.
fn privileges(properties: &mut Properties, tokens: &[Token]) {
    let position = |word: &str| tokens.iter().position(|token| token.is(word));
    let grants = tokens[0].is("GRANT");
    let (Some(on), Some(to)) = (position("ON"), position(if grants { "TO" } else { "FROM" })) else { return };
    if to < on || (!grants && tokens[1].is("GRANT")) {
        return;
    }
    let end = tokens[to..]
        .iter()
        .position(|token| token.is("WITH") || token.is("GRANTED"))
        .map_or(tokens.len(), |at| to + at);
    let option = tokens[end..].iter().any(|token| token.is("OPTION"));
    for word in tokens[1..on].iter().filter_map(Token::value) {
        let kinds: &[&str] = match word.to_uppercase().as_str() {
            "ALL" => &["CONNECT", "CREATE", "TEMPORARY"],
            "CONNECT" => &["CONNECT"],
            "CREATE" => &["CREATE"],
            "TEMPORARY" | "TEMP" => &["TEMPORARY"],
            _ => &[],
        };
        for (kind, grantee) in kinds.iter().flat_map(|kind| tokens[to + 1..end].iter().map(move |token| (kind, token)))
        {
            let name = if grantee.is("PUBLIC") { None } else { grantee.name() };
            match (grantee, grants) {
                (Token::Sign(_), _) => {}
                (_, true) => properties.grant(name.as_deref(), kind, option),
                (_, false) => properties.revoke(name.as_deref(), kind),
            }
        }
    }
}

fn tokens(text: &str, escapes: bool) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut characters = text.trim_end().trim_end_matches(';').chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            character if character.is_whitespace() => {}
            '\'' => {
                // `E'…'`: the letter before it was taken for a word.
                let is_escaped = matches!(tokens.last(), Some(token) if Token::is(token, "E"));
                if is_escaped {
                    tokens.pop();
                }
                tokens.push(Token::Text(quoted(&mut characters, '\'', escapes || is_escaped)));
            }
            '"' => tokens.push(Token::Name(quoted(&mut characters, '"', false))),
            character if character.is_alphanumeric() || matches!(character, '_' | '$') => {
                let mut word = String::from(character);
                while let Some(next) = characters.next_if(|next| next.is_alphanumeric() || matches!(next, '_' | '$')) {
                    word.push(next);
                }
                tokens.push(Token::Word(word));
            }
            sign => tokens.push(Token::Sign(sign)),
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(statements: &[&str]) -> Properties {
        let mut properties = None;
        for statement in statements {
            learn_text(&mut properties, statement, false);
        }
        properties.unwrap()
    }

    #[test]
    fn k6_all_that_pg_dump_create_writes_is_understood() {
        let found = read(&[
            "CREATE DATABASE \"te\"\"st\" WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = icu LOCALE = 'C' \
             ICU_LOCALE = 'de-u-co-phonebk' ICU_RULES = '& V << w';",
            "ALTER DATABASE \"te\"\"st\" OWNER TO \"Own er\";",
            "COMMENT ON DATABASE \"te\"\"st\" IS 'it''s; mine';",
            "ALTER DATABASE \"te\"\"st\" CONNECTION LIMIT = 33;",
            "ALTER DATABASE \"te\"\"st\" SET \"TimeZone\" TO 'Europe/Berlin';",
            "ALTER DATABASE \"te\"\"st\" SET search_path TO '$user', 'a,\"b';",
            "ALTER DATABASE \"te\"\"st\" SET custom.x TO E'a\\\\b';",
            "ALTER ROLE \"Gr\" IN DATABASE \"te\"\"st\" SET statement_timeout TO '30s';",
            "REVOKE CONNECT,TEMPORARY ON DATABASE \"te\"\"st\" FROM PUBLIC;",
            "GRANT CONNECT ON DATABASE \"te\"\"st\" TO \"Gr\" WITH GRANT OPTION;",
        ]);
        assert_eq!((found.owner.as_str(), found.comment.as_deref()), ("Own er", Some("it's; mine")));
        assert_eq!(found.shown_locale(), "UTF8, ICU \"de-u-co-phonebk\" with rules");
        assert_eq!(found.get("datconnlimit"), Some("33"));
        let text = found.statements_for("\"new\"").join("\n");
        for part in [
            "SET \"search_path\" TO '$user', 'a,\"b'",
            "SET \"custom\".\"x\" TO E'a\\\\b'",
            "ALTER ROLE \"Gr\" IN DATABASE \"new\" SET \"statement_timeout\" TO '30s'",
            "REVOKE ALL ON DATABASE \"new\" FROM PUBLIC",
            "GRANT CONNECT ON DATABASE \"new\" TO \"Gr\" WITH GRANT OPTION",
            "GRANT CREATE ON DATABASE \"new\" TO \"Own er\"",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("TO PUBLIC"), "{text}");
        assert_eq!(found.roles().into_iter().collect::<Vec<_>>(), ["Gr", "Own er"]);
    }

    #[test]
    fn k6_older_and_newer_forms_of_create_database_are_understood() {
        let old = read(&[
            "CREATE DATABASE a WITH TEMPLATE = template0 ENCODING = 'LATIN1' LC_COLLATE = 'C' LC_CTYPE = 'de_DE';",
        ]);
        assert_eq!(old.shown_locale(), "LATIN1, libc \"C\" with character type \"de_DE\"");
        let new = read(&[
            "CREATE DATABASE a WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = builtin LOCALE = 'C' \
                          BUILTIN_LOCALE = 'C.UTF-8' TABLESPACE = \"Side\";",
        ]);
        assert_eq!((new.shown_locale().as_str(), new.tablespace.as_str()), ("UTF8, builtin \"C.UTF-8\"", "Side"));
        let mut none = None;
        learn_text(&mut none, "ALTER DATABASE other SET work_mem TO '1MB';", false);
        assert_eq!(none, None);
    }
}
