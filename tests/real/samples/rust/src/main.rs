//! A web server that needs a crate.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

const TEXT: &str = "PAGE";

fn main() {
    let port = std::env::var("PORT").expect("a port").parse().expect("a number");
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("a free port");
    for stream in listener.incoming().flatten() {
        // A client that goes is its own affair.
        std::thread::spawn(move || drop(answer(stream)));
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    for line in BufReader::new(&stream).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let body = format!("{} {TEXT}\n", greet::from("Rust"));
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}
