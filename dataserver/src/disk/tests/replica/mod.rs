//! Copies that repair makes, and what others are told of a group.

mod copies;
mod crashes;
mod groups;
mod looks;

use super::*;

fn name_of(chunk: u64) -> ChunkName {
    ChunkName {
        pool: POOL,
        chunk: ChunkId(chunk),
    }
}

async fn copy(disk: &Disk, chunk: u64, data: &Bytes) -> Result<()> {
    let mut writer = disk.create_copy(POOL, ChunkId(chunk), data.len() as u32)?;
    let (mut at, mut rest) = (0, data.clone());
    while !rest.is_empty() {
        let frame = rest.split_to(rest.len().min(FRAME_LEN_MAX));
        let crcs = frame_crcs(at, &frame);
        at += frame.len();
        writer.append(vec![frame], &crcs).await?;
    }
    writer.seal(data.len() as u32, Crc::of(data)).await
}

fn copies_left(dir: &TempDir) -> usize {
    let mut left = 0;
    for folder in fs::read_dir(dir.path().join("chunks")).unwrap() {
        for item in fs::read_dir(folder.unwrap().path()).unwrap() {
            let name = item.unwrap().file_name();
            left += usize::from(name.to_str().unwrap().ends_with(shared::COPY_SUFFIX));
        }
    }
    left
}

/// A file that hangs: what is in its place can not be opened for reading until the end, and then not be read.
struct Hanging {
    path: PathBuf,
    kept: PathBuf,
    fifo: PathBuf,
}

impl Hanging {
    fn at(dir: &TempDir, path: &Path) -> Hanging {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let (kept, fifo) = (dir.path().join("kept"), dir.path().join("fifo"));
        fs::rename(path, &kept).unwrap();
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        fs::hard_link(&fifo, path).unwrap();
        let path = path.to_path_buf();
        Hanging { path, kept, fifo }
    }

    /// The file is there again; whoever had begun to open it gets an error.
    fn end(self) {
        fs::rename(&self.kept, &self.path).unwrap();
        // Waits for nobody, and lets go who waits.
        let opened = fs::File::options().read(true).write(true).open(&self.fifo);
        drop(opened.unwrap());
    }
}
