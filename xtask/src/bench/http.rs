//! A connection that costs nothing: prepared requests over HTTP/1.1 keep-alive, so that the load generator leaves the
//! two cores to what is measured.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// One kept-alive connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    head: String,
}

impl Connection {
    /// To this address, with this bearer token.
    pub(crate) async fn open(address: &str, token: &str) -> Result<Connection> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("nothing answers at {address}"))?;
        stream.set_nodelay(true)?;
        let head = format!("Host: {address}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n");
        Ok(Connection { stream, buffer: Vec::with_capacity(8192), head })
    }

    /// One call; the body as bytes.
    pub(crate) async fn call(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, Vec<u8>)> {
        self.call_with(method, path, "", body).await
    }

    async fn call_with(&mut self, method: &str, path: &str, more: &str, body: &str) -> Result<(u16, Vec<u8>)> {
        let head = &self.head;
        let request = format!("{method} {path} HTTP/1.1\r\n{head}{more}Content-Length: {}\r\n\r\n{body}", body.len());
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            self.fill().await?;
        };
        let head = std::str::from_utf8(&self.buffer[..end])?.to_ascii_lowercase();
        let status = head.split(' ').nth(1).context("a status line")?.parse()?;
        let length: usize = match head.lines().find_map(|line| line.strip_prefix("content-length:")) {
            Some(length) => length.trim().parse()?,
            None => bail!("an answer without a length"),
        };
        while self.buffer.len() < end + length {
            self.fill().await?;
        }
        Ok((status, self.buffer[end..end + length].to_vec()))
    }

    /// One call; the body as JSON.
    pub(crate) async fn json(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, Value)> {
        let (status, body) = self.call(method, path, body).await?;
        Ok((status, serde_json::from_slice(&body)?))
    }

    /// One call that makes a task, answered when that has succeeded.
    pub(crate) async fn done(&mut self, method: &str, path: &str, body: &str) -> Result<Value> {
        let (status, answer) = self.call_with(method, path, "Prefer: wait=60\r\n", body).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        if status != 200 || answer["task"]["state"] != "succeeded" {
            bail!("{method} {path}: {status} {answer}");
        }
        Ok(answer)
    }

    /// A machine whose guest answers; its id.
    pub(crate) async fn machine(&mut self, body: &str) -> Result<String> {
        let answer = self.done("POST", "/api/v1/vms", body).await?;
        Ok(answer["vm"]["id"].as_str().context("a VM's id")?.to_owned())
    }

    /// Asks until a task has ended.
    pub(crate) async fn ended(&mut self, id: &str) -> Result<Value> {
        let path = format!("/api/v1/tasks/{id}");
        for _ in 0..20_000 {
            let (_, task) = self.json("GET", &path, "").await?;
            if ["succeeded", "failed", "cancelled"].iter().any(|state| task["state"] == **state) {
                return Ok(task);
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        bail!("task {id} does not end")
    }

    async fn fill(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the server hung up");
        }
        Ok(())
    }
}
