//! A repository of one Debian package, served on this host's loopback: guests reach it as 10.0.2.2, and nothing else is
//! needed of any network.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// The package in it.
pub const PACKAGE: &str = "greeting";

/// What it installs, and what that says.
pub const INSTALLED: &str = "/usr/share/greeting";
pub const SAYS: &str = "installed from the repository of the test";

/// As apt in a guest spells where it is. The files are served as long as the test runs.
pub fn serve() -> Result<String> {
    let folder = tempfile::tempdir()?;
    let package = pack(folder.path())?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        std::thread::scope(|scope| {
            for stream in listener.incoming().flatten() {
                // Whoever breaks off asks again.
                scope.spawn(|| while_asked(stream, folder.path(), &package));
            }
        });
    });
    Ok(format!("deb [trusted=yes] http://10.0.2.2:{port}/ ./"))
}

/// Makes the package and the list of packages; gives the package's name.
fn pack(folder: &Path) -> Result<String> {
    let (root, name) = (folder.join("root"), format!("{PACKAGE}_1_all.deb"));
    fs::create_dir_all(root.join("DEBIAN"))?;
    let control = format!(
        "Package: {PACKAGE}\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\nDescription: greets\n"
    );
    fs::write(root.join("DEBIAN/control"), &control)?;
    let installed = root.join(INSTALLED.trim_start_matches('/'));
    fs::create_dir_all(installed.parent().context("it lies in a folder")?)?;
    fs::write(installed, SAYS)?;
    let file = folder.join(&name);
    let packed = Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&root).arg(&file).output()?;
    ensure!(packed.status.success(), "dpkg-deb: {packed:?}");
    let digest = String::from_utf8(Command::new("sha256sum").arg(&file).output()?.stdout)?;
    let (digest, size) = (digest.split(' ').next().unwrap_or_default(), fs::metadata(&file)?.len());
    fs::write(folder.join("Packages"), format!("{control}Filename: ./{name}\nSize: {size}\nSHA256: {digest}\n"))?;
    Ok(name)
}

/// Answers one request after another, as apt sends them: some at once, and on one connection.
fn while_asked(mut stream: TcpStream, folder: &Path, package: &str) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(asked) = lines.next() {
        let asked = asked?;
        while !lines.next().context("the end of a request")??.is_empty() {}
        let path = asked.split(' ').nth(1).unwrap_or_default();
        let wanted = ["Packages", package].into_iter().find(|name| path.ends_with(&format!("/{name}")));
        let (status, body) = match wanted {
            Some(name) => ("200 OK", fs::read(folder.join(name))?),
            None => ("404 Not Found", Vec::new()),
        };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len())?;
        stream.write_all(&body)?;
    }
    Ok(())
}
