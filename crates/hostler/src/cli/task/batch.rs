//! `hostler task submit --file`: many tasks at once, one JSON document on each line.

use std::{io::Read as _, path::Path};

use hostler_model::api::{NewTask, strict};

use super::{Session, dead};
use crate::exit::{Exit, Failure};

/// How many go into one call: what the server takes.
const AT_ONCE: usize = 1000;

/// Submits every line of a file, `-` for stdin, and tells what became of each. Nothing is sent when a line is wrong.
pub async fn submit(path: &Path, session: &Session) -> Result<Exit, Failure> {
    let tasks = read(&text(path)?)?;
    let mut answers = Vec::with_capacity(tasks.len());
    for some in tasks.chunks(AT_ONCE) {
        answers.extend(session.client.submit_tasks(some).await?.answers);
    }
    dead::tell(session, &answers)
}

fn text(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().read_to_string(&mut text).map(drop),
        false => std::fs::read_to_string(path).map(|read| text = read),
    };
    read.map_err(|error| Failure::new(Exit::Usage, format!("{} cannot be read: {error}", path.display())))?;
    Ok(text)
}

fn read(text: &str) -> Result<Vec<NewTask>, Failure> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let tasks: Result<Vec<NewTask>, Failure> = lines
        .map(|(n, line)| {
            let wrong = |why: String| Failure::new(Exit::Usage, format!("line {}: {why}", n + 1));
            let value = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
            strict(&value).map_err(|refusal| wrong(refusal.detail))
        })
        .collect();
    tasks.and_then(|tasks| match tasks.is_empty() {
        true => {
            Err(Failure::new(Exit::Usage, "the file has no tasks: write one JSON document on each line".to_owned()))
        }
        false => Ok(tasks),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_task_and_a_wrong_one_is_named() {
        let tasks = read("{\"kind\": \"echo\"}\n\n{\"kind\": \"echo\", \"priority\": 7}\n").unwrap();
        assert_eq!((tasks.len(), tasks[1].priority.get()), (2, 7));
        for (text, word) in [
            ("{\"kind\": \"echo\"}\n{", "line 2"),
            ("{\"kind\": \"echo\", \"prioritty\": 7}", "prioritty"),
            ("{\"kind\": \"echo\", \"priority\": 700}", "-100"),
            ("\n", "no tasks"),
        ] {
            let lines = read(text).unwrap_err().lines();
            assert!(lines[0].1.contains(word), "{text}: {lines:?}");
        }
    }
}
