package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// checkDeb looks at a package with Debian's own tools.
func checkDeb(t *testing.T, file string) {
	t.Helper()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Log("there is no dpkg-deb: the packages are not looked at")
		return
	}
	about := output(t, "dpkg-deb", "--info", file)
	for _, want := range []string{"Package: crossfade", "Version: 1.2.3~rc1", "Installed-Size: ", "Section: database", "conffiles", "postinst", "prerm", "postrm"} {
		if !strings.Contains(about, want) {
			t.Errorf("%s: no %q in\n%s", file, want, about)
		}
	}
	list := output(t, "dpkg-deb", "--contents", file)
	for _, want := range []string{
		"-rwxr-xr-x root/root", " ./usr/bin/crossfade\n", "-rw-r----- root/root", " ./etc/crossfade/crossfade.yaml\n", " ./usr/lib/systemd/system/crossfade.service\n",
		" ./usr/share/man/man1/crossfade.1.gz\n", " ./usr/share/bash-completion/completions/crossfade\n", " ./usr/share/zsh/vendor-completions/_crossfade\n",
		" ./usr/share/fish/vendor_completions.d/crossfade.fish\n", " ./usr/share/doc/crossfade/copyright\n", "2023-11-1",
	} {
		if !strings.Contains(list, want) {
			t.Errorf("%s: no %q in\n%s", file, want, list)
		}
	}
	if runtime.GOARCH == strings.TrimSuffix(file[strings.LastIndex(file, "_")+1:], ".deb") {
		tryDeb(t, file)
	}
}

// tryDeb installs a package below a folder of its own, removes and purges it.
func tryDeb(t *testing.T, file string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Log("only root can install below a folder: that is not tried")
		return
	}
	root := newRoot(t)
	dpkg := func(args ...string) string {
		return output(t, "dpkg", append([]string{"--root=" + root, "--force-script-chrootless", "--log=" + filepath.Join(root, "dpkg.log")}, args...)...)
	}
	before := tree(t, root)
	dpkg("--install", file)
	config := filepath.Join(root, "etc/crossfade/crossfade.yaml")
	for name, mode := range map[string]fs.FileMode{"usr/bin/crossfade": 0o755, "etc/crossfade/crossfade.yaml": 0o640, "usr/share/man/man1/crossfade.1.gz": 0o644} {
		if info, err := os.Stat(filepath.Join(root, name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if status := output(t, "dpkg-query", "--admindir="+filepath.Join(root, "var/lib/dpkg"), "-W", "-f", "${Status} ${Conffiles}", "crossfade"); !strings.HasPrefix(status, "install ok installed") || !strings.Contains(status, "/etc/crossfade/crossfade.yaml") {
		t.Errorf("the status is %s", status)
	}
	if found := output(t, "dpkg", "--root="+root, "--verify", "crossfade"); found != "" {
		t.Errorf("the files are not as their sums say: %s", found)
	}
	if links, _ := filepath.Glob(filepath.Join(root, "etc/systemd/system/*")); len(links) > 0 {
		t.Errorf("something was enabled: %v", links)
	}
	if out := output(t, filepath.Join(root, "usr/bin/crossfade"), "config", "--config", config); !strings.Contains(out, "/run/crossfade/admin.sock") {
		t.Errorf("its configuration gives\n%s", out)
	}

	// What the administrator wrote stays, over an upgrade and a removal.
	write(t, config, "listen: [127.0.0.1:7000]\n")
	for _, name := range []string{"var/lib/private/crossfade/crossfade.state", "etc/crossfade/crossfade.env"} {
		write(t, filepath.Join(root, name), "theirs")
	}
	dpkg("--force-confdef", "--force-confold", "--install", file)
	dpkg("--remove", "crossfade")
	if data, err := os.ReadFile(config); err != nil || string(data) != "listen: [127.0.0.1:7000]\n" {
		t.Errorf("the configuration is %q, %v", data, err)
	}
	if _, err := os.Stat(filepath.Join(root, "var/lib/private/crossfade/crossfade.state")); err != nil {
		t.Errorf("a removal has taken the state away: %v", err)
	}
	if _, err := os.Stat(filepath.Join(root, "usr/bin/crossfade")); err == nil {
		t.Error("a removal has left the binary")
	}
	dpkg("--purge", "crossfade")
	after := tree(t, root)
	for _, name := range after {
		// Folders that other packages of a real system own anyway.
		if !slices.Contains(before, name) && !slices.Contains([]string{"etc", "usr", "var/lib/private"}, name) {
			t.Errorf("left behind: %s", name)
		}
	}
}

// newRoot is a system without any package.
func newRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/lib/dpkg/parts"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "var/lib/dpkg/status"), "")
	write(t, filepath.Join(root, "var/lib/dpkg/available"), "")
	return root
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// tree lists what is below a folder, but for dpkg's own.
func tree(t *testing.T, root string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		name, _ := filepath.Rel(root, path)
		if err == nil && !strings.HasPrefix(name, "var/lib/dpkg") && name != "dpkg.log" {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestDebWithoutGo: the format holds whatever the files are.
func TestDebWithoutGo(t *testing.T) {
	need(t, "dpkg-deb")
	for _, n := range []int{0, 1, 2, 511, 512, 100_001} {
		data, err := writeDeb("Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x.invalid>\nDescription: x\n", nil,
			[]debFile{{path: "usr/share/x/" + strings.Repeat("long/", 30) + "file", data: make([]byte, n), mode: 0o600}}, time.Unix(5, 0))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "x.deb")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if list := output(t, "dpkg-deb", "--contents", file); !strings.Contains(list, fmt.Sprintf(" %d 1970-01-01", n)) {
			t.Errorf("%d bytes: %s", n, list)
		}
	}
}
