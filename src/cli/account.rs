//! Who the user is: registration, log-in, log-out.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context as _, bail};
use clap::Args;
use console::Term;
use serde_json::{Value, json};

use super::Global;
use super::context::{Context, Contexts};
use super::environment;
use super::outcome::{Exit, failure};
use super::output::{Table, yes_no};
use super::session::{self, Session};
use crate::client::view::SignedIn;
use crate::client::{Answer, Client, Options};
use crate::model::{Secret, check_password};

/// How a user says who they are. The password comes from a prompt, standard input or NARVANA_PASSWORD.
#[derive(Args, Debug)]
pub(super) struct Credentials {
    /// E-mail address [default: asked for, or that of the context]
    pub(super) email: Option<String>,
    /// Read the password from standard input, up to the first line end
    #[arg(long)]
    pub(super) password_stdin: bool,
}

/// Registration.
#[derive(Args, Debug)]
pub(super) struct RegisterArgs {
    #[command(flatten)]
    pub(super) credentials: Credentials,
    /// Token that `narvana init` printed; needed from another machine only
    #[arg(long, env = "NARVANA_SETUP_TOKEN", hide_env_values = true)]
    pub(super) setup_token: Option<String>,
}

/// Makes the first user and logs them in.
pub(super) async fn register(global: &Global, args: RegisterArgs) -> anyhow::Result<()> {
    let mut login = Login::prepare(global)?;
    let email = login.email(&args.credentials)?;
    let password = password(args.credentials.password_stdin, true)?;
    let setup_token = args.setup_token.filter(|token| !token.is_empty());
    let answer = login.client.register(&email, &password, setup_token.as_deref()).await?;
    login.keep(global, &email, answer).await
}

/// Logs a user in.
pub(super) async fn login(global: &Global, credentials: Credentials) -> anyhow::Result<()> {
    let mut login = Login::prepare(global)?;
    let email = login.email(&credentials)?;
    let password = password(credentials.password_stdin, false)?;
    let answer = login.client.login(&email, &password).await?;
    login.keep(global, &email, answer).await
}

/// A log-in in the making: a client without token, and where the token will be kept.
struct Login {
    client: Client,
    options: Options,
    contexts: Contexts,
    name: String,
}

impl Login {
    fn prepare(global: &Global) -> anyhow::Result<Self> {
        let contexts = Contexts::load()?;
        // A context that does not exist yet is made by logging in.
        let known = global.context.as_ref().is_none_or(|name| contexts.contexts.contains_key(name));
        let lookup = Global { context: global.context.clone().filter(|_| known), ..global.clone() };
        let options = Options { token: None, ..session::options(&lookup, &contexts)? };
        let name = contexts.name_for(global.context.as_deref(), &options.addresses);
        Ok(Self { client: Client::new(&options)?, options, contexts, name })
    }

    fn email(&self, credentials: &Credentials) -> anyhow::Result<String> {
        let known = self.contexts.contexts.get(&self.name).and_then(|context| context.email.clone());
        if let Some(email) = credentials.email.clone().or(known) {
            return Ok(email);
        }
        if !io::stdin().is_terminal() {
            return Err(failure(Exit::Usage, "no e-mail address is given; name it as the argument"));
        }
        write!(io::stderr(), "E-mail address: ")?;
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    async fn keep(&mut self, global: &Global, email: &str, answer: Answer<SignedIn>) -> anyhow::Result<()> {
        let known = self.contexts.contexts.get(&self.name);
        let known = known.filter(|known| self.options.addresses.iter().all(|address| known.knows(address)));
        let mut context = Context {
            api: known.map_or_else(|| self.options.addresses.clone(), |known| known.api.clone()),
            email: Some(email.to_owned()),
            token: Some(answer.view.token),
            // Kept for every folder.
            ca_cert: self.options.ca_cert.as_ref().map(std::path::absolute).transpose()?,
            ..known.cloned().unwrap_or_default()
        };
        let options = Options { token: context.token.clone().map(Secret::new), ..self.options.clone() };
        // Nobody has to be told where the other nodes are for a log-in to be good.
        if let Ok(cluster) = Client::new(&options)?.status().await {
            context.learn(&self.client.address(), &cluster.view);
        }
        self.contexts.contexts.insert(self.name.clone(), context);
        self.contexts.current = Some(self.name.clone());
        self.contexts.save().context("logged in, but the log-in cannot be kept")?;
        let line = format!(
            "logged in at {} as {email} (context {})\nnext: `narvana deploy .` deploys a folder with a Dockerfile",
            self.client.address(),
            self.name
        );
        global.printer().done(&answer.json, &line)
    }
}

/// The password: from standard input, the environment, or a prompt without echo.
fn password(from_stdin: bool, is_new: bool) -> anyhow::Result<String> {
    if from_stdin {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).context("cannot read the password from standard input")?;
        return non_empty(line.trim_end_matches(['\r', '\n']).to_owned());
    }
    if let Some(password) = environment::password() {
        return Ok(password);
    }
    let terminal = Term::stderr();
    if !terminal.is_term() || !io::stdin().is_terminal() {
        let message =
            "no password is given and there is no terminal to ask at; use --password-stdin or NARVANA_PASSWORD";
        return Err(failure(Exit::Usage, message));
    }
    let ask = |prompt: &str| -> anyhow::Result<String> {
        terminal.write_str(prompt)?;
        terminal.read_secure_line().context("cannot read the password")
    };
    let password = ask("Password: ")?;
    if is_new {
        // Found here rather than by the node, so that nothing has to be typed a second time for nothing.
        check_password(&password).map_err(|problem| failure(Exit::Usage, format!("the password {problem}")))?;
        if ask("Once more: ")? != password {
            bail!("the two passwords differ; nothing was done");
        }
    }
    non_empty(password)
}

fn non_empty(password: String) -> anyhow::Result<String> {
    match password.is_empty() {
        true => Err(failure(Exit::Usage, "the password is empty")),
        false => Ok(password),
    }
}

/// Ends the log-in, there and here.
pub(super) async fn logout(global: &Global) -> anyhow::Result<()> {
    let mut contexts = Contexts::load()?;
    let session = Session::open(global)?;
    let name = contexts.name(global.context.as_deref());
    let outcome = session.client.logout().await;
    // The token is forgotten even if the node cannot be told: whoever logs out wants it gone from here.
    if let Some(context) = contexts.contexts.get_mut(&name) {
        context.token = None;
        contexts.save()?;
    }
    match outcome {
        Ok(answer) => {
            let data = if answer.json == Value::Null { json!({ "context": name }) } else { answer.json };
            session.output.done(&data, &format!("logged out (context {name})"))
        }
        Err(error) if error.code() == "unauthorized" => {
            session.output.done(&json!({ "context": name }), &format!("was not logged in (context {name})"))
        }
        Err(error) => {
            Err(error).context("the token is forgotten here, but the node could not be told to end the log-in")
        }
    }
}

/// Shows the user.
pub(super) async fn whoami(session: &Session) -> anyhow::Result<()> {
    let answer = session.client.profile().await?;
    let api = session.client.address();
    session.output.show(&answer, |user| {
        Table::of_fields([
            ("email", user.email.clone()),
            ("name", user.name.clone()),
            ("id", user.id.to_string()),
            ("role", user.role.clone()),
            ("cluster admin", yes_no(user.is_admin)),
            ("node", api),
        ])
    })
}
