//! Lines that a server may send, well meant and not.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use serde_json::json;

async fn first(input: &[u8], limit: usize) -> Result<Message, End> {
    LineReader::new(input, limit).next().await
}

#[test]
fn a_line_is_read_by_its_meaning() {
    let parse = |text: &str| Message::parse(text.as_bytes());
    assert_eq!(parse(r#"{"return":{},"id":7}"#).unwrap(), Message::Return { id: Some(7), value: json!({}) });
    let refusal = Message::Error { id: None, class: "GenericError".into(), desc: "no".into() };
    assert_eq!(parse(r#"{"error":{"class":"GenericError","desc":"no"}}"#).unwrap(), refusal);
    let event = Message::Event { name: "STOP".into(), data: Value::Null, seconds: 5, microseconds: 6 };
    assert_eq!(parse(r#"{"event":"STOP","timestamp":{"seconds":5,"microseconds":6}}"#).unwrap(), event);
    assert!(parse("[]").is_err());
    assert!(parse("{}").is_err());
}

#[tokio::test]
async fn framing_is_bounded_and_skips_blank_lines() {
    assert_eq!(first(b"\r\n\r\n{\"QMP\":1}\r\n", 64).await.unwrap(), Message::Greeting(json!(1)));
    assert_eq!(first(b"{\"QMP\":1}\n", 9).await.unwrap(), Message::Greeting(json!(1)));
    assert_eq!(first(b"{\"QMP\":1}\n", 8).await.unwrap_err(), End::TooLong(8));
    assert_eq!(first(b"{\"QMP\":1}", 64).await.unwrap_err(), End::Closed("end of file".into()));
}

proptest! {
    #[test]
    fn no_line_makes_it_panic(line in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = Message::parse(&line);
    }
}
