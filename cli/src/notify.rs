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
    /// Send a test notice, and wait for the receiver to take it
    Test,
    /// List the notices that are not delivered yet
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
            session.output.show(&tested, || match tested.delivered {
                true => format!("{} was taken by the receiver\n", tested.id),
                false => format!(
                    "{} was not taken yet; it is tried again, and the server's log says what the receiver answers\n",
                    tested.id
                ),
            })?;
            Ok(Status::of(tested.delivered))
        }
        Verb::List => {
            let notices: Vec<NoticeView> = client.get(&["notices"], &[]).await?;
            session.output.show(&notices, || {
                let mut table = Table::new(&["notice", "raised", "kind", "about", "vm", "text"]);
                for it in &notices {
                    let raised = moment::show(&it.raised);
                    let vm = or_dash(it.vm.as_ref());
                    table.row([
                        it.id.clone(),
                        raised,
                        it.kind.clone(),
                        it.subject.clone(),
                        vm,
                        it.text.clone(),
                    ]);
                }
                table.render("every notice is delivered")
            })?;
            Ok(Status::Done)
        }
    }
}
