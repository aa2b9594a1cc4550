//! Files of a crate that import each other in a circle: none of them can be read, or changed, without the
//! others. A file may use what the module files above it define.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, words};

/// A module by its path below `src`; empty for the root of the crate.
type Module = Vec<String>;

/// One line for each crate in which files import each other in a circle: the files in such circles, and those
/// between two of them.
pub(crate) fn cycles(sources: &[Source]) -> Vec<String> {
    let mut crates: BTreeMap<&str, BTreeMap<Module, String>> = BTreeMap::new();
    for source in sources {
        if let Some((root, module)) = module(&source.path) {
            crates.entry(root).or_default().insert(module, source.engine_code());
        }
    }
    let of_crate = |(root, files): (&str, BTreeMap<Module, String>)| {
        let circle = in_circles(imports(&files));
        let names: Vec<String> = circle.iter().map(|module| module.join("/")).collect();
        (!names.is_empty()).then(|| format!("{root}: import each other: {}", names.join(", ")))
    };
    crates.into_iter().filter_map(of_crate).collect()
}

fn module(path: &str) -> Option<(&str, Module)> {
    let (root, file) = path.split_once("/src/")?;
    let mut module: Module = file.strip_suffix(".rs")?.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| matches!(&**last, "mod" | "lib")) {
        module.pop();
    }
    Some((root, module))
}

/// Whom each module imports, but for modules above it.
fn imports(files: &BTreeMap<Module, String>) -> BTreeMap<Module, BTreeSet<Module>> {
    let of = |(module, code): (&Module, &String)| {
        let found = paths(code).into_iter().filter_map(|path| resolve(module, &path, files));
        let others = found.filter(|other| !module.starts_with(other)).collect();
        (module.clone(), others)
    };
    files.iter().map(of).collect()
}

/// All paths that are imported by `use`, and all that begin with `crate` or `super`.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for at in words(code, "use") {
        let tree = code[at + 3..].split(';').next().unwrap_or_default();
        expand("", &tree.split_whitespace().collect::<String>(), &mut found);
    }
    for first in ["crate", "super"] {
        let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let path = |at: usize| code[at..].split(|c| !is_path(c)).next().unwrap_or_default().to_owned();
        found.extend(words(code, first).map(path));
    }
    found
}

/// The paths of a `use` tree without white space.
fn expand(before: &str, tree: &str, found: &mut Vec<String>) {
    let Some((head, rest)) = tree.split_once('{') else {
        found.push(format!("{before}{tree}"));
        return;
    };
    let before = format!("{before}{head}");
    let (mut depth, mut branch) = (0, String::new());
    for c in rest.strip_suffix('}').unwrap_or(rest).chars().chain([',']) {
        match c {
            ',' if depth == 0 => {
                expand(&before, &std::mem::take(&mut branch), found);
                continue;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        branch.push(c);
    }
}

/// The module that a path leads to or into, if it is another one of the same crate.
fn resolve(from: &Module, path: &str, files: &BTreeMap<Module, String>) -> Option<Module> {
    let mut parts = path.split("::").peekable();
    let mut base = from.clone();
    match *parts.peek()? {
        "crate" => {
            base.clear();
            parts.next();
        }
        "super" => {
            while parts.next_if_eq(&"super").is_some() {
                base.pop();
            }
        }
        first if !files.contains_key(&[&*base, &[first.to_owned()]].concat()) => return None,
        _ => {}
    }
    for part in parts {
        base.push(part.to_owned());
        if !files.contains_key(&base) {
            base.pop();
            break;
        }
    }
    (base != *from && files.contains_key(&base)).then_some(base)
}

/// What is left when every file that imports none of the rest, or that none of the rest imports, is taken
/// away.
fn in_circles(mut imports: BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<Module> {
    loop {
        let left: BTreeSet<Module> = imports.keys().cloned().collect();
        let imported: BTreeSet<Module> = imports.values().flatten().cloned().collect();
        imports.retain(|module, others| {
            others.retain(|other| left.contains(other));
            !others.is_empty() && imported.contains(module)
        });
        if imports.len() == left.len() {
            return left;
        }
    }
}

#[test]
fn import_cycle_is_found_and_parent_use_is_no_cycle() {
    let source = |path: &str, text: &str| Source::new(&format!("engine/x/src/{path}.rs"), text);
    let files = |last| {
        [
            source("lib", "mod a;\nmod b;\nmod c;\nuse a::A;"),
            source("a", "use super::{Root, b::{self, B}};"),
            source("b/mod", "use crate::c::C;"),
            source("b/d", "use super::Above;"),
            last,
        ]
    };
    let tests = "#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}\n";
    assert!(cycles(&files(source("c", tests))).is_empty());
    let circle = files(source("c", "fn f() { super::a::g(); }"));
    assert_eq!(cycles(&circle), ["engine/x: import each other: a, b, c"]);
}
