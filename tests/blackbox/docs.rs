//! The book and the other pages: their links lead somewhere, and what they say of codes, messages and commands is so.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

use crate::harness::{cli::outlast, scratch};

/// The pages beside the book and those at the root.
const PAGES: [&str; 2] = ["examples/README.md", "guest-sdk/TUTORIAL.md"];
const SUMMARY: &str = "docs/src/SUMMARY.md";
const CONFIGURATION: &str = "docs/src/operating/configuration.md";
const LIMITS: &str = "docs/src/operating/limits.md";
const ERRORS: &str = "docs/src/operating/errors.md";
const STOPS: &str = "docs/src/operating/stops.md";
/// The functions of the sources that take the code of an error, and which of their arguments it is.
const CODED: [(&str, usize); 9] = [
    ("ApiError::new", 1),
    ("ApiError::invalid", 1),
    ("ModelError::new", 1),
    ("Self::new", 1),
    ("new", 1),
    ("failure", 1),
    ("invalid", 0),
    ("denied", 0),
    ("limit", 0),
];
/// Parts of a quoted message that are shorter than this may stand anywhere.
const TELLING: usize = 8;

#[test]
fn links_lead_to_something() {
    let (root, mut broken) = (root(), Vec::new());
    for page in pages() {
        let text = read(&page);
        let folder = Path::new(&page).parent().unwrap();
        let included = text.split("{{#include ").skip(1).map(|rest| rest.split("}}").next().unwrap().trim().to_owned());
        if let Some(gone) = included.into_iter().find(|file| !root.join(folder).join(file).is_file()) {
            broken.push(format!("{page} includes {gone}, which is not there"));
        }
        for link in links(&text) {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { PathBuf::from(&page) } else { plain(&folder.join(path)) };
            if !root.join(&target).exists() {
                broken.push(format!("{page}: ({link}) leads to nothing"));
            } else if !anchor.is_empty() && !anchors(&read(target.to_str().unwrap())).contains(anchor) {
                broken.push(format!("{page}: ({link}) leads to no heading"));
            } else if page.starts_with("docs/src/") && !target.starts_with("docs/src") {
                broken.push(format!("{page}: ({link}) leads out of the book"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_page_of_the_book_is_in_its_summary() {
    let listed: BTreeSet<_> = links(&read(SUMMARY)).into_iter().map(|link| format!("docs/src/{link}")).collect();
    let there: BTreeSet<_> =
        pages().into_iter().filter(|page| page.starts_with("docs/src/") && page != SUMMARY).collect();
    assert_eq!(listed, there);
}

#[test]
fn every_error_code_is_explained_and_every_explained_one_exists() {
    let page = read(ERRORS);
    let first = |line: &str| Some(line.strip_prefix("| `")?.split_once("` |")?.0.to_owned());
    let explained: BTreeSet<String> = page.lines().filter_map(first).filter(|code| is_code(code)).collect();
    let mut used = BTreeMap::new();
    for (file, source) in sources() {
        for code in codes(&source) {
            used.entry(code).or_insert_with(|| file.clone());
        }
    }
    let missing: Vec<_> = used.iter().filter(|(code, _)| !explained.contains(*code)).collect();
    assert!(missing.is_empty(), "{ERRORS} does not explain {missing:#?}");
    let gone: Vec<_> = explained.iter().filter(|code| !used.contains_key(*code)).collect();
    assert!(gone.is_empty(), "{ERRORS} explains {gone:?}, which no source gives");
    assert!(used.len() > 90, "the sources are not read as they should: only {used:#?}");
}

#[test]
fn quoted_messages_are_those_of_the_server() {
    let all: String = sources().into_iter().map(|(_, source)| joined(&source)).collect();
    let mut seen = 0;
    for page in [ERRORS, STOPS] {
        let text = read(page);
        let rows = text.lines().skip_while(|line| !line.starts_with("| the message")).skip(2);
        for row in rows.take_while(|line| line.starts_with('|')) {
            for quoted in spans(row.split('|').nth(1).unwrap()) {
                // The rest depends on the case, and whose failure it is.
                let parts = quoted.split(|letter: char| letter == '…' || letter.is_ascii_digit());
                for part in parts.map(|part| part.trim_start_matches("The agent").trim()) {
                    if part.len() >= TELLING {
                        seen += 1;
                        assert!(all.contains(part), "{page} quotes `{quoted}`, and no source says `{part}`");
                    }
                }
            }
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn commands_are_those_of_the_program() {
    let (mut help, mut wrong, mut seen) = (Help::default(), Vec::new(), 0);
    for page in pages() {
        for command in commands(&read(&page)) {
            seen += 1;
            if let Err(why) = help.check(&command) {
                wrong.push(format!("{page}: outlast {}: {why}", command.join(" ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 30, "{seen}");
}

#[test]
fn every_key_of_the_configuration_is_in_its_table() {
    let page = read(CONFIGURATION);
    // Each has a table of its own.
    let sections = ["keys", "providers", "agents", "tools", "mcp", "limits", "webhooks"].map(str::to_owned);
    let all = known("").into_iter().filter(|key| !sections.contains(key)).collect();
    assert_eq!(table(&part(&page, "Server")), all, "{CONFIGURATION}, Server");
    for (heading, section) in
        [("Keys", "[[keys]]"), ("Providers", "[providers.a]"), ("Agents", "[agents.a]"), ("Webhooks", "[[webhooks]]")]
    {
        assert_eq!(table(&part(&page, heading)), known(section), "{CONFIGURATION}, {heading}");
    }
    assert_eq!(table(&read(LIMITS)), known("[limits]"), "{LIMITS}");
    for section in ["[tools.a]", "[mcp.a]", "[agents.a.http]"] {
        let missing: Vec<_> = known(section).into_iter().filter(|key| !page.contains(&format!("`{key}`"))).collect();
        assert!(missing.is_empty(), "{CONFIGURATION} does not name {missing:?} of {section}");
    }
}

#[test]
fn the_readme_is_short() {
    assert!(read("README.md").lines().count() <= 150);
}

/// The keys of a section, as the program tells whoever writes another one.
fn known(section: &str) -> BTreeSet<String> {
    let folder = scratch::dir("docs");
    let file = folder.path().join("outlast.toml");
    fs::write(&file, format!("{section}\nnonsense = 1\n")).unwrap();
    let refused = outlast(["plugin", "list", "--config", file.to_str().unwrap()]).failed();
    let (_, keys) = refused.split_once("expected `one of ").unwrap_or_else(|| panic!("{refused}"));
    spans(keys).into_iter().map(str::to_owned).filter(|key| is_code(key)).collect()
}

/// The keys that the tables of a page explain: what stands between backquotes in their first column, without flags.
fn table(text: &str) -> BTreeSet<String> {
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('|').next());
    let keys = cells.flat_map(|cell| spans(&format!("`{cell}")).into_iter().map(str::to_owned).collect::<Vec<_>>());
    keys.filter(|key| is_code(key)).collect()
}

/// The part of a page below a heading of the second level.
fn part(text: &str, heading: &str) -> String {
    let begin = format!("\n## {heading}\n");
    let (_, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("there is no heading {heading}"));
    rest.split("\n## ").next().unwrap().to_owned()
}

/// The folder of the workspace, wherever in it this package lies.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().find(|folder| folder.join("Cargo.lock").is_file()).unwrap().to_owned()
}

fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// All pages, by their paths from the root.
fn pages() -> Vec<String> {
    let root = root();
    let above = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
    let above = above.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let all = above.chain(files(&root.join("docs/src"), "md"));
    let all = all.map(|page| page.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
    PAGES.map(str::to_owned).into_iter().chain(all).collect()
}

/// The files below a folder whose names end so.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A path without `..`.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut plain, part| {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
        plain
    })
}

/// The text of a page without its blocks of code, and those of one language.
fn blocks(text: &str, language: &str) -> (String, String) {
    let (mut prose, mut code, mut block) = (String::new(), String::new(), None);
    for line in text.lines() {
        match (block, line.trim_start().strip_prefix("```")) {
            (None, Some(begins)) => block = Some(begins == language),
            (Some(_), Some(_)) => block = None,
            (None, None) => prose.extend([line, "\n"]),
            (Some(wanted), None) if wanted => code.extend([line, "\n"]),
            (Some(_), None) => {}
        }
    }
    (prose, code)
}

/// Where the links of a page lead that stay in the repository.
fn links(text: &str) -> Vec<String> {
    let (prose, _) = blocks(text, "");
    let words: String = prose.split('`').step_by(2).collect();
    let targets = words.split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned());
    targets.filter(|link| !link.contains("://")).collect()
}

/// What stands between backquotes.
fn spans(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The anchors of a page, made of its headings as mdBook and GitHub make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let (prose, _) = blocks(text, "");
    let mut anchors = BTreeSet::new();
    for line in prose.lines().filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | ' ');
        let anchor: String =
            heading.chars().filter(kept).map(|letter| if letter == ' ' { '-' } else { letter }).collect();
        let mut names = (1..).map(|number| format!("{anchor}-{number}"));
        let name = if anchors.contains(&anchor) { names.find(|name| !anchors.contains(name)).unwrap() } else { anchor };
        anchors.insert(name);
    }
    anchors
}

/// The sources of the server, without comments and unit tests.
fn sources() -> Vec<(PathBuf, String)> {
    let apart = ["tests", "target", "templates", "guest-build", "tests.rs", "build.rs"];
    let all = files(&root().join("host"), "rs").into_iter();
    let own = all.filter(|file| !file.iter().any(|part| apart.iter().any(|apart| part == *apart)));
    let read = own.map(|file| {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("\n#[cfg(test)]\n").next().unwrap();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        (file, lines.flat_map(|line| [line, "\n"]).collect())
    });
    read.collect()
}

/// A source whose texts over several lines are on one.
fn joined(source: &str) -> String {
    let mut lines = source.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |all, line| all + line.trim_start())
}

/// The codes of errors in a source: arguments of functions that take one, and fields that are one.
fn codes(source: &str) -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for (name, position) in CODED {
        for (at, _) in source.match_indices(&format!("{name}(")) {
            let within = source[..at].ends_with(|letter: char| letter.is_alphanumeric() || "_:".contains(letter));
            if let (false, Some(argument)) = (within, arguments(&source[at + name.len() + 1..]).get(position)) {
                codes.extend(literal(source, argument));
            }
        }
    }
    for rest in source.split("code: \"").skip(1) {
        codes.extend(rest.split('"').next().filter(|code| is_code(code)).map(str::to_owned));
    }
    codes
}

/// The code that an argument is, or that the constant of its name is.
fn literal(source: &str, argument: &str) -> Option<String> {
    let quoted = |text: &str| Some(text.strip_prefix('"')?.split('"').next()?.to_owned());
    let is_constant = argument.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_');
    let text = if is_constant {
        source.split(&format!("const {argument}: &str = ")).nth(1)?
    } else {
        argument.ends_with('"').then_some(argument)?
    };
    quoted(text).filter(|code| is_code(code))
}

fn is_code(text: &str) -> bool {
    text.starts_with(|letter: char| letter.is_ascii_lowercase())
        && text.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
}

/// The arguments of a call, from behind its opening parenthesis on.
fn arguments(source: &str) -> Vec<String> {
    let (mut found, mut argument, mut depth) = (Vec::new(), String::new(), 0);
    let mut letters = source.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ')' | ']' | '}' if depth == 0 => {
                found.push(argument.trim().to_owned());
                return found;
            }
            ',' if depth == 0 => found.push(std::mem::take(&mut argument).trim().to_owned()),
            letter => {
                argument.push(letter);
                match letter {
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' => depth -= 1,
                    '"' => {
                        while let Some(within) = letters.next() {
                            argument.push(within);
                            match within {
                                '\\' => argument.extend(letters.next()),
                                '"' => break,
                                _ => {}
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    found
}

/// The commands of this program in a page, without its name: in blocks of `sh`, and between backquotes.
fn commands(text: &str) -> Vec<Vec<String>> {
    let (prose, code) = blocks(text, "sh");
    let code = code.replace("\\\n", " ");
    let spans: Vec<_> =
        spans(&prose).into_iter().filter(|span| span.starts_with("outlast ")).map(str::to_owned).collect();
    let lines = code.lines().map(|line| line.split(" #").next().unwrap().to_owned());
    let all = lines.chain(spans).flat_map(|line| line.split("&&").map(words).collect::<Vec<_>>());
    all.filter_map(program).filter(|command| command.first().is_some_and(|first| first != "…")).collect()
}

/// What is given to this program, if a command calls it.
fn program(words: Vec<String>) -> Option<Vec<String>> {
    let is_variable = |word: &String| {
        word.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_uppercase() || c == '_'))
    };
    let words: Vec<_> = words.into_iter().skip_while(is_variable).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let given = match words.as_slice() {
        ["outlast", given @ ..] | ["cargo", "run", "--", given @ ..] => given,
        _ => return None,
    };
    Some(given.iter().map(|word| (*word).to_owned()).collect())
}

/// The words of a line, as a shell splits it.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('"').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// What `--help` says of each command.
#[derive(Default)]
struct Help(BTreeMap<String, String>);

impl Help {
    fn of(&mut self, path: &[String]) -> &str {
        let arguments = path.iter().map(String::as_str).chain(["--help"]);
        self.0.entry(path.join(" ")).or_insert_with(|| outlast(arguments).ok())
    }

    /// Whether there is such a command with such flags.
    fn check(&mut self, command: &[String]) -> Result<(), String> {
        let (mut path, mut known) = (Vec::new(), String::new());
        loop {
            let help = self.of(&path).to_owned();
            known.push_str(&help);
            let Some((_, commands)) = help.split_once("\nCommands:\n") else { break };
            let Some(next) = command.get(path.len()).filter(|word| !word.starts_with('-')) else { break };
            let mut names = commands.lines().take_while(|line| !line.is_empty());
            if !names.any(|line| line.split_whitespace().next() == Some(next)) {
                return Err(format!("there is no command `{next}`"));
            }
            path.push(next.clone());
        }
        let flags = command.iter().filter(|word| word.starts_with("--") && word.len() > 2);
        let flags = flags.map(|word| word.split('=').next().unwrap());
        let has = |flag: &&str| known.split([' ', ',', '\n', '[']).any(|word| word == *flag);
        match flags.into_iter().find(|flag| !has(flag)) {
            Some(flag) => Err(format!("it has no flag `{flag}`")),
            None => Ok(()),
        }
    }
}
