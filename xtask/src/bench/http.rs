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
        let request = format!("{method} {path} HTTP/1.1\r\n{}Content-Length: {}\r\n\r\n{body}", self.head, body.len());
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
