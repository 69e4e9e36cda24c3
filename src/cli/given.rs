//! The flags that reproduce what a node was given, as flags or as variables: what its systemd unit has to say.

use std::any::TypeId;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::node::StartArgs;
use super::outcome::{Exit, failure};

/// Not passed on: the unit names the data folder itself, and systemd sets the folder for sockets.
const LEFT_OUT: &[&str] = &["data_dir", "runtime_dir", "database_url"];
/// Everybody on a machine can read its units and the arguments of its processes.
const SECRET: &[&str] = &["jwt_secret"];

/// One flag.
struct Flag {
    id: String,
    /// As systemd is to pass it on; `None` when it cannot be written down.
    text: Option<String>,
}

/// The flags of a node for which a flag or a variable was given.
pub(super) struct Given(Vec<Flag>);

impl Given {
    /// As arguments, paths made absolute.
    pub(super) fn flags(&self) -> anyhow::Result<Vec<String>> {
        let flags = self.0.iter().filter(|flag| !LEFT_OUT.contains(&flag.id.as_str()));
        let text = |flag: &Flag| match &flag.text {
            _ if SECRET.contains(&flag.id.as_str()) => Err(failure(
                Exit::Usage,
                format!(
                    "{0} cannot go into a unit, which everybody may read: put {0} into a file of mode 0600 and name it with --config",
                    flag.id
                ),
            )),
            Some(text) => Ok(text.clone()),
            None => Err(failure(Exit::Usage, format!("a unit cannot hold the value of {}: it is not UTF-8", flag.id))),
        };
        flags.map(text).collect()
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let definition = StartArgs::augment_args(Command::new("node"));
        Ok(Self(definition.get_arguments().flat_map(|argument| given(argument, matches)).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Given {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

fn given(argument: &Arg, matches: &ArgMatches) -> Vec<Flag> {
    let id = argument.get_id().as_str();
    let source = matches.value_source(id);
    let Some(long) = argument.get_long() else { return Vec::new() };
    if !matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
        return Vec::new();
    }
    if matches!(argument.get_action(), ArgAction::SetTrue) {
        let flag = Flag { id: id.to_owned(), text: Some(format!("--{long}")) };
        return matches.get_flag(id).then_some(flag).into_iter().collect();
    }
    let is_path = argument.get_value_parser().type_id() == TypeId::of::<PathBuf>();
    let values = matches.get_raw(id).into_iter().flatten();
    let text = |value: &std::ffi::OsStr| {
        let absolute = if is_path { std::path::absolute(Path::new(value)).ok()? } else { PathBuf::from(value) };
        Some(format!("--{long}={}", absolute.to_str()?))
    };
    values.map(|value| Flag { id: id.to_owned(), text: text(value) }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::node::NodeArgs;
    use super::*;

    fn flags(line: &[&str]) -> anyhow::Result<Vec<String>> {
        let command = NodeArgs::augment_args(Command::new("run").no_binary_name(true));
        // What the machine that runs this test has set is not ours.
        let command = command.mut_args(|argument| argument.env(None::<&'static str>));
        let matches = command.try_get_matches_from(line)?;
        Given::from_arg_matches(&matches)?.flags()
    }

    #[test]
    fn flags_are_passed_on_as_they_were_given() {
        let line = ["--data-dir", "x", "--api-port", "0", "--label", "a=b", "--label", "c=d e", "--service"];
        assert_eq!(flags(&line).expect("flags"), ["--api-port=0", "--label=a=b", "--label=c=d e"]);
        let line = ["--allow-plain-http", "--log=debug", "--build-timeout=5m"];
        let mut found = flags(&line).expect("flags");
        found.sort();
        assert_eq!(found, ["--allow-plain-http", "--build-timeout=5m", "--log=debug"]);
    }

    #[test]
    fn paths_are_made_absolute() {
        let here = std::env::current_dir().expect("a folder");
        assert_eq!(
            flags(&["--config", "n.toml"]).expect("flags"),
            [format!("--config={}", here.join("n.toml").display())]
        );
    }

    #[test]
    fn a_secret_stays_out_of_the_unit() {
        let error = flags(&["--jwt-secret", "0123456789abcdef0123456789abcdef"]).expect_err("refused").to_string();
        assert!(error.contains("jwt_secret") && error.contains("--config"), "{error}");
        assert!(!error.contains("0123456789"), "{error}");
    }
}
