//! The client against a socket that says what the test wants.

#![allow(clippy::unwrap_used)]

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;
use crate::exit::Status;

/// Answers one request with these bytes and returns the request's first line.
async fn answer(listener: &UnixListener, reply: &str) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = vec![0; 4096];
    let read = stream.read(&mut request).await.unwrap();
    stream.write_all(reply.as_bytes()).await.unwrap();
    String::from_utf8_lossy(&request[..read]).lines().next().unwrap_or_default().to_owned()
}

fn reply(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

async fn asked(path: &Path, reply_text: &str) -> (Result<Value, ClientError>, String) {
    let listener = UnixListener::bind(path).unwrap();
    let client = Client::new(&Server::Unix(path.to_owned())).unwrap();
    let query = [("at", "2026-01-01T00:00:00+01:00")];
    let request = client.get::<Value>(&["vms", "a b/c"], &query);
    tokio::join!(request, answer(&listener, reply_text))
}

#[tokio::test]
async fn a_request_is_encoded_and_its_answer_read() {
    let folder = tempfile::tempdir().unwrap();
    let (value, line) = asked(&folder.path().join("s"), &reply("200 OK", r#"{"a":1}"#)).await;
    assert_eq!(value.unwrap()["a"], 1);
    assert_eq!(line, "GET /v1/vms/a%20b%2Fc?at=2026-01-01T00%3A00%3A00%2B01%3A00 HTTP/1.1");
}

#[tokio::test]
async fn a_socket_with_a_long_path_is_reached_through_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("x".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let near = folder.path().join("s");
    let listener = UnixListener::bind(&near).unwrap();
    std::fs::rename(&near, deep.join("s")).unwrap();
    let client = Client::new(&Server::Unix(deep.join("s"))).unwrap();
    let ok = reply("200 OK", "");
    let request = client.delete::<Option<Value>>(&["x"], &[]);
    let (value, line) = tokio::join!(request, answer(&listener, &ok));
    assert_eq!((value.unwrap(), line.as_str()), (None, "DELETE /v1/x HTTP/1.1"));
}

#[tokio::test]
async fn a_refusal_keeps_its_message_and_gets_its_status() {
    for (status, code, exit) in [
        ("400 Bad Request", "usage", Status::Usage),
        ("404 Not Found", "not-found", Status::NotFound),
        ("409 Conflict", "refused", Status::Refused),
        ("500 Internal Server Error", "failed", Status::Failed),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let body = format!(r#"{{"code":"{code}","message":"because"}}"#);
        let (value, _) = asked(&folder.path().join("s"), &reply(status, &body)).await;
        let failure = Failure::from(value.unwrap_err());
        assert_eq!((failure.status(), failure.to_string().as_str()), (exit, "because"));
    }
}

#[tokio::test]
async fn an_answer_of_another_program_is_no_refusal() {
    for body in [reply("404 Not Found", "<html>"), reply("200 OK", "<html>")] {
        let folder = tempfile::tempdir().unwrap();
        let (value, _) = asked(&folder.path().join("s"), &body).await;
        let failure = Failure::from(value.unwrap_err());
        assert_eq!(failure.status(), Status::Failed);
        assert!(failure.to_string().contains("of another version"), "{failure}");
    }
}

#[tokio::test]
async fn each_way_of_not_reaching_it_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let server = Server::Unix(path.clone());
    let ask = async || Client::new(&server).unwrap().get::<Value>(&["health"], &[]).await.unwrap_err();

    let absent = Failure::from(ask().await);
    assert_eq!(absent.status(), Status::Unreachable);
    assert!(absent.to_string().contains("there is no such socket. Start one with `backstay up`"), "{absent}");

    let listener = UnixListener::bind(&path).unwrap();
    let (broken, _) = tokio::join!(ask(), answer(&listener, ""));
    assert!(broken.to_string().contains("broke"), "{broken}");

    drop(listener);
    let deserted = ask().await;
    assert!(deserted.to_string().contains("nobody listens there any more"), "{deserted}");

    let long = Server::Unix(folder.path().join("y".repeat(120)).join("s"));
    assert!(Client::new(&long).is_err_and(|error| error.to_string().contains("no such socket")));
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_is_not_called_undone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let client = Client::new(&Server::Unix(path)).unwrap();
    let (lost, _) = tokio::join!(client.post::<Value>(&["backups"], &[]), answer(&listener, ""));
    assert!(lost.unwrap_err().to_string().contains("Whether the request was carried out is not known"));
}
