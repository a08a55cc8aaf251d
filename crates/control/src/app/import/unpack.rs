//! Unpacking: gzip, xz and zstd, as a stream. A small file can unpack to any size, and its header can ask for any memory:
//! the limit of blobs and the tenant's room hold for what comes out, and the memory has a bound of its own.

use std::{
    fs::File,
    io::{self, Read},
};

use hostler_model::{Refusal, disk::Packing};
use tokio_util::io::SyncIoBridge;

use super::{super::Error, Received, Result, Work};

/// How far back a packed file may refer, in bytes: what `xz -9` and `zstd --ultra -22` do at the most, and twice that
/// much memory for the former.
const WINDOW_BITS: u32 = 27;
const MEMORY: u64 = 2 << WINDOW_BITS;
/// What waits between who unpacks and who writes, in bytes.
const BETWEEN: usize = 1 << 20;

impl Work {
    /// What is in it.
    pub(super) async fn unpack(&self, packing: Packing, from: &Received) -> Result<Received> {
        let packed = File::open(from.path()).map_err(Error::file("read a blob"))?;
        let (ours, theirs) = tokio::io::duplex(BETWEEN);
        let mut bridge = SyncIoBridge::new(ours);
        let unpacking = tokio::task::spawn_blocking(move || {
            io::copy(&mut reader(packing, packed)?, &mut bridge)?;
            bridge.shutdown()
        });
        let charge = self.app.charge(self.tenant).await?;
        let received = self.app.blobs.receive(self.app.ids.next(self.app.clock.now()), charge, theirs).await;
        // Whoever unpacks writes to nobody once this has failed, and ends.
        let unpacked = unpacking.await;
        let received = received?;
        match unpacked {
            Ok(Ok(())) => Ok(received),
            Ok(Err(error)) => {
                let detail =
                    format!("the {} cannot be unpacked: {error}; it is damaged, or not whole", packing.as_str());
                Err(Refusal::field("format", detail).into())
            }
            Err(_) => Err(Error::Fault("the unpacking broke down")),
        }
    }
}

/// Reads what is in a packed file, all its members.
fn reader(packing: Packing, packed: File) -> io::Result<Box<dyn Read>> {
    Ok(match packing {
        Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
        Packing::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(MEMORY, liblzma::stream::CONCATENATED);
            Box::new(liblzma::read::XzDecoder::new_stream(packed, stream?))
        }
        Packing::Zstd => {
            let mut reader = zstd::stream::read::Decoder::new(packed)?;
            reader.window_log_max(WINDOW_BITS)?;
            Box::new(reader)
        }
    })
}
