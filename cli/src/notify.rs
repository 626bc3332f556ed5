//! `backstay notify`: whether notices arrive where they should.

use clap::Subcommand;
use orchestrator::api::view::{NoticeTested, NoticeView};

use crate::exit::{Ending, Status};
use crate::moment;
use crate::session::Session;
use crate::table::{Table, or_dash};

/// What to do with notices.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Send a test notice to every receiver, and show what each said
    Test,
    /// List the notices that are not delivered to everybody yet
    List,
}

/// Runs it.
///
/// # Errors
/// As the server refuses it. A test that did not arrive in time is no error: the status is 1.
pub async fn run(verb: Verb, session: &Session) -> Ending {
    let client = session.client()?;
    match verb {
        Verb::Test => {
            let tested: NoticeTested = client.patient().post(&["notices", "test"], &[]).await?;
            session.output.show(&tested, || {
                let mut table = Table::new(&["receiver", "taken", "answer"]);
                for it in &tested.receivers {
                    let taken = if it.delivered { "yes" } else { "not yet" };
                    table.row([it.name.clone(), taken.to_owned(), it.answer.clone()]);
                }
                let rest = match tested.delivered {
                    true => "",
                    false => "What was not taken is tried again; the server's log says how that goes.\n",
                };
                format!("{}{rest}", table.render("there is no receiver"))
            })?;
            Ok(Status::of(tested.delivered))
        }
        Verb::List => {
            let notices: Vec<NoticeView> = client.get(&["notices"], &[]).await?;
            session.output.show(&notices, || {
                let mut table = Table::new(&["notice", "raised", "kind", "about", "vm", "owed to", "text"]);
                for it in &notices {
                    let raised = moment::show(&it.raised);
                    let vm = or_dash(it.vm.as_ref());
                    table.row([
                        it.id.clone(),
                        raised,
                        it.kind.clone(),
                        it.subject.clone(),
                        vm,
                        it.owed.join(" "),
                        it.text.clone(),
                    ]);
                }
                table.render("every notice is delivered")
            })?;
            Ok(Status::Done)
        }
    }
}
