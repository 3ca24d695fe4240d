//! The documentation names tests and rows: both must be there.

use std::fs;
use std::path::Path;

fn sources(dir: &Path, text: &mut String) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_test_that_the_reliability_page_names_exists_and_every_row_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    let mut code = String::new();
    sources(&root.join("src"), &mut code);
    sources(&root.join("tests"), &mut code);

    let mut missing = Vec::new();
    let mut rows = [false; 117];
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let number = line.split('|').nth(1).unwrap().trim();
        for part in number.split(',').map(str::trim) {
            let mut ends = part.split('-').filter_map(|end| end.parse::<usize>().ok());
            if let Some(first) = ends.next() {
                rows[first..=ends.next().unwrap_or(first)].fill(true);
            }
        }
        for name in
            line.split('`').skip(1).step_by(2).filter(|name| name.contains('_') && !name.contains([' ', '-', '.']))
        {
            let known = match name.strip_suffix('…') {
                Some(prefix) => code.contains(&format!("fn {prefix}")),
                None => code.contains(&format!("fn {name}(")),
            };
            if !known && !name.starts_with(char::is_uppercase) && !name.contains("pg_") && !name.contains("ll_to") {
                missing.push(name.to_owned());
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new(), "tests that do not exist");
    let absent: Vec<usize> = (1..=116).filter(|row| !rows[*row]).collect();
    assert_eq!(absent, Vec::<usize>::new(), "rows that are not on the page");
}
