//! Where a run writes: its pack, and beside it a checkpoint, and for as long as the run goes on a locked folder.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::format::{Holder, file_place, follow_links};

/// The place of a run, which no other run may have. What a killed run left in its folder is removed.
#[derive(Debug)]
pub struct OutPlace {
    /// The pack, with links followed.
    pub pack: PathBuf,
    /// The checkpoint.
    pub checkpoint: PathBuf,
    holder: Holder,
}

impl OutPlace {
    /// Takes the place of the pack `out`, whose folder is made. Fails where it could not be written, and where another
    /// run is writing there.
    pub fn claim(out: &Path) -> Result<OutPlace> {
        let pack = file_place(out)?;
        let holder = Holder::beside(&pack, out)?;
        Ok(OutPlace { checkpoint: checkpoint_path(&pack), pack, holder })
    }

    /// The folder in which files are made before they get their places.
    pub fn aside(&self) -> PathBuf {
        self.holder.inside()
    }
}

/// Where a run that writes its pack to `out` keeps its checkpoint: beside the file that `out` leads to as a link.
pub fn checkpoint_path(out: &Path) -> PathBuf {
    let mut path = follow_links(out).unwrap_or_else(|_| out.to_path_buf()).into_os_string();
    path.push(".checkpoint");
    path.into()
}
