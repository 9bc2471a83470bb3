package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
)

// While clients wait, entries are written one behind the other over a second file, whose
// place on the disk was taken before: to put a new file in the place of the old one, as is
// done otherwise, has the file system wait for the disk now and then. Each is a line that
// begins with its checksum: the rest of one of earlier times may be behind it, and a machine
// that loses its power may have kept a part of it. Neither counts.

// briskSize is how many bytes there are; an entry has some three thousand.
const briskSize = 128 << 10

func (f *File) briskPath() string { return f.path + ".hold" }

// Brisk has what need not be durable saved so, until Calm. It waits for the disk itself.
func (f *File) Brisk() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closeBrisk()
	b, err := openBrisk(f.briskPath())
	if err != nil {
		return fmt.Errorf("making room beside the state file %s: %w", f.path, err)
	}
	f.brisk, f.at = b, 0
	return nil
}

func openBrisk(path string) (*os.File, error) {
	b, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := b.Stat()
	if err == nil && info.Size() != briskSize {
		if err = b.Truncate(0); err == nil {
			_, err = b.WriteAt(make([]byte, briskSize), 0)
		}
		if err = errors.Join(err, b.Sync()); err == nil {
			err = syncAt(filepath.Dir(path))
		}
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Calm has every entry take the file's place again.
func (f *File) Calm() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closeBrisk()
}

func (f *File) closeBrisk() { // with mu held
	if f.brisk != nil {
		_ = f.brisk.Close()
	}
	f.brisk, f.newer = nil, false
}

// saveBriskly reports whether e is saved.
func (f *File) saveBriskly(e Entry) bool { // with mu held
	if f.brisk == nil {
		return false
	}
	text, err := json.Marshal(e)
	if err != nil {
		return false
	}
	line := fmt.Appendf(nil, "%08x %s\n", crc32.ChecksumIEEE(text), text)
	if f.at+int64(len(line)) > briskSize {
		return false
	}
	if _, err := f.brisk.WriteAt(line, f.at); err != nil {
		return false
	}
	f.at += int64(len(line))
	f.newer = true
	return true
}

// newest is the latest of e, which the file has, and what was saved briskly for the same
// migration.
func (f *File) newest(e Entry) Entry {
	text, err := os.ReadFile(f.briskPath())
	if err != nil {
		return e // there is none, or the file itself is all that is known
	}
	for line := range bytes.Lines(text) {
		sum, entry, found := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
		if !found || string(sum) != fmt.Sprintf("%08x", crc32.ChecksumIEEE(entry)) {
			continue
		}
		var one Entry
		if json.Unmarshal(entry, &one) == nil && one.ID == e.ID && one.After(e) {
			e = one
		}
	}
	return e
}
