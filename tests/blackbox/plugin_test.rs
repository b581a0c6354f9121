//! `outlast plugin test`: scripted cases for a component.

use std::{fs, path::Path};

use crate::harness::{
    cli::{Ended, outlast},
    plugins, scratch,
};

fn test(component: &str, arguments: &[&str], cases: &Path) -> Ended {
    let (component, cases) = (plugins::component(component).display().to_string(), cases.display().to_string());
    outlast(["plugin", "test", &component, &cases].into_iter().chain(arguments.iter().copied()))
}

const SUM: &str = r#"
# Three at 19.99.
input = "What do three cost?"
history = [{ type = "message", role = "user", content = [{ type = "input_text", text = "They are 19.99 each." }] }]
config = { instructions = "Be brief." }
request = { temperature = 0.5 }
model = "small"
now = "2030-05-06T07:08:09Z"

[[answers]]
reasoning = "I calculate."
text = ["Let me ", "see. "]
calls = [
    { name = "calculate", arguments = { expression = "19.99 * 3" } },
    { name = "now" },
    { name = "calculate", arguments = "{" },
]
usage = { input_tokens = 10, output_tokens = 4 }

[[answers]]
calls = [{ name = "wait", arguments = { seconds = 86400 } }]

[[answers]]
text = "59.97, a day later."

[expect]
status = "completed"
text = "Let me see. 59.97, a day later."
usage = { input_tokens = 10, output_tokens = 4, total_tokens = 14 }
trace = [
    "context.config", "context.request", "context.history", "tools.available", "model.forward",
    "log.log", "model.forward", "tasks.sleep", "model.forward",
]
log = ["debug: tool calculate: the arguments do not fit: EOF while parsing an object at line 1 column 1 (invalid_arguments)"]

[[expect.asked]]
model = "small"
instructions = "Be brief."
options = { temperature = 0.5 }

[[expect.asked]]
[[expect.asked]]
"#;

#[test]
fn a_case_scripts_the_models_and_the_clock() {
    let folder = scratch::dir("cases-");
    fs::write(folder.path().join("sum.toml"), SUM).unwrap();
    let output = r#"{
        "input": "Time?",
        "answers": [{"calls": [{"name": "now"}]}, {"text": "Late."}],
        "expect": {"asked": [{}, {"input": [
            {"role": "user"}, {"type": "function_call", "name": "now"},
            {"type": "function_call_output", "output": "2026-01-01T00:00:00Z"}
        ]}]}
    }"#;
    fs::write(folder.path().join("time.json"), output).unwrap();
    fs::write(folder.path().join("README.md"), "no case").unwrap();
    let said = test("assistant", &[], folder.path()).ok();
    assert!(
        said.contains("sum.toml") && said.contains("time.json") && said.ends_with("2 of 2 cases passed\n"),
        "{said}"
    );
}

#[test]
fn a_failure_of_a_model_is_a_script_too() {
    let folder = scratch::dir("cases-");
    let case = r#"
input = "x"
[[answers]]
text = "It begi"
error = { code = "upstream_unavailable", message = "gone" }
[expect]
status = "failed"
error = { message = "gone" }
output = [{ type = "message", status = "incomplete", content = [{ text = "It begi" }] }]
"#;
    fs::write(folder.path().join("gone.toml"), case).unwrap();
    test("assistant", &[], folder.path()).ok();
}

#[test]
fn a_difference_says_where_and_what() {
    let folder = scratch::dir("cases-");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("good.toml", "input = \"a b\"\nexpect = { text = \"a b\" }");
    write("wrong.toml", "input = \"a b\"\nexpect = { text = \"a c\", usage = { input_tokens = 3 } }");
    write("unasked.toml", "input = \"a\"\nanswers = [{ text = \"b\" }]");
    write("typo.toml", "inptu = \"a\"");
    write("refused.toml", "input = \"a\"\nrequest = { temperature = \"hot\" }");
    write("failing.toml", "input = \"a\"\nrequest = { metadata = { delay_ms = \"x\" } }");
    let ended = test("echo", &[], folder.path());
    assert_eq!(ended.code, Some(1));
    let said = &ended.stdout;
    for part in [
        "wrong.toml\n  text\n    - \"a c\"\n    + \"a b\"\n  usage.input_tokens\n    - 3\n    + 2\n",
        "unasked.toml\n  answers\n    - 1 answers of models\n    + 1 were not used\n",
        "unknown field `inptu`",
        "'temperature'",
        "failing.toml\n  status\n    - \"completed\"\n    + \"failed\"\n  the response failed: metadata.delay_ms must be",
        "1 of 6 cases passed",
    ] {
        assert!(said.contains(part), "{part}\n\n{said}");
    }
    assert_eq!(ended.stderr, "outlast: 5 of 6 cases failed\n");
    assert!(test("echo", &["--filter", "good"], folder.path()).ok().ends_with("1 of 1 cases passed\n"));
    assert!(test("echo", &["--filter", "none"], folder.path()).failed().contains("no case of 6 has `none`"));
}

#[test]
fn a_blessed_case_passes() {
    let folder = scratch::dir("cases-");
    let case = folder.path().join("a.toml");
    fs::write(&case, "# Kept.\ninput = \"a b\"\n\n[expect]\ntext = \"old\"\noutput = []\n").unwrap();
    assert_eq!(test("echo", &[], folder.path()).code, Some(1));
    test("echo", &["--bless"], folder.path()).ok();
    let blessed = fs::read_to_string(&case).unwrap();
    assert!(blessed.starts_with("# Kept.\ninput = \"a b\"") && blessed.contains("text = \"a b\""), "{blessed}");
    test("echo", &[], folder.path()).ok();
}

#[test]
fn a_case_scripts_the_tools_that_are_granted() {
    let folder = scratch::dir("cases-");
    let case = r#"
input = "How long is a marathon?"

[[tools]]
name = "units__convert"
description = "Converts."
answers = ["42.16 km", { error = { kind = "invalid", code = "unknown_unit", message = "there is no unit `x`" } }]

[[answers]]
calls = [
    { name = "units__convert", arguments = { value = 26.2 } },
    { name = "units__convert", arguments = { to = "x" } },
]

[[answers]]
text = "42.16 km."

[expect]
text = "42.16 km."
called = [{ name = "units__convert", arguments = { value = 26.2 } }, { arguments = { to = "x" } }]
"#;
    fs::write(folder.path().join("marathon.toml"), case).unwrap();
    let ended = test("assistant", &[], folder.path());
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    fs::write(folder.path().join("marathon.toml"), case.replace("value = 26.2 } }, {", "value = 3 } }, {")).unwrap();
    let ended = test("assistant", &[], folder.path());
    assert!(ended.code == Some(1) && ended.stdout.contains("called"), "{}", ended.stdout);
}
