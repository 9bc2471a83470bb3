package store

import (
	"os"
	"syscall"
)

// dataSync has the disk take what was written over a file, and not when that was.
func dataSync(f *os.File) error {
	if err := syscall.Fdatasync(int(f.Fd())); err != nil {
		return os.NewSyscallError("fdatasync", err)
	}
	return nil
}
