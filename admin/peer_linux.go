package admin

import (
	"net"
	"syscall"
)

// peer asks the kernel whose process has connected.
func peer(c *net.UnixConn) (uid uint32, pid int32, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, 0, false
	}
	err2 := raw.Control(func(fd uintptr) {
		var cred *syscall.Ucred
		if cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			uid, pid = cred.Uid, cred.Pid
		}
	})
	return uid, pid, err == nil && err2 == nil
}
