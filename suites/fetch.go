package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// debian fetches the source of a package from the first of the releases that has
// it, and unpacks it into dir. With patched the distribution's patches are in it,
// without it is as its authors released it. The system's own lists and sources are
// left alone.
func debian(ctx context.Context, dir, name string, patched bool, releases ...string) error {
	work := dir + ".apt"
	defer func() { _ = os.RemoveAll(work) }()
	mirror, err := mirror(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, release := range releases {
		if err := debianFrom(ctx, dir, work, mirror, name, release, patched); err != nil {
			errs = append(errs, fmt.Errorf("from %s: %w", release, err))
			continue
		}
		return nil
	}
	return errors.Join(errs...)
}

// mirror finds where this system gets Debian's packages.
func mirror(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian", "Label: Debian").Output()
	if err != nil {
		return "", fmt.Errorf("asking apt-get for the mirror: %w", err)
	}
	uri, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if uri == "" {
		return "", errors.New("no source of Debian's packages is configured here; apt-get update may help")
	}
	return uri, nil
}

func debianFrom(ctx context.Context, dir, work, mirror, name, release string, patched bool) error {
	lists, sources := filepath.Join(work, "lists"), filepath.Join(work, "sources.list")
	if err := errors.Join(os.RemoveAll(work), os.MkdirAll(filepath.Join(lists, "partial"), 0o755)); err != nil {
		return err
	}
	line := "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] " + mirror + " " + release + " main\n"
	if err := os.WriteFile(sources, []byte(line), 0o644); err != nil {
		return err
	}
	options := []string{"-q", "-o", "Dir::Etc::SourceList=" + sources, "-o", "Dir::Etc::SourceParts=/dev/null",
		"-o", "Dir::State::Lists=" + lists, "-o", "APT::Sandbox::User="}
	apt := func(args ...string) error {
		out, err := command(ctx, work, "", nil, "apt-get", append(options, args...)...)
		return explain(err, out)
	}
	if err := apt("update"); err != nil {
		return err
	}
	get := []string{"source", "--download-only"}
	if !patched {
		get = append(get, "--tar-only")
	}
	if err := apt(append(get, name)...); err != nil {
		// Of a package with several archives the first is enough.
		if got, _ := filepath.Glob(filepath.Join(work, "*.orig.tar.*")); patched || len(got) == 0 {
			return err
		}
	}
	unpack := []string{"sh", "-c", "tar -x --strip-components=1 -C \"$1\" -f \"$(ls *.orig.tar.* | head -n 1)\"", "sh", dir}
	if patched {
		unpack = []string{"sh", "-c", "rm -rf \"$1\" && dpkg-source --no-check -x *.dsc \"$1\"", "sh", dir}
	}
	out, err := command(ctx, work, "", nil, unpack[0], unpack[1:]...)
	return explain(err, out)
}

// explain adds the last lines of a program's output to its error.
func explain(err error, out []byte) error {
	if err == nil {
		return nil
	}
	var tail []string
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		tail = append(tail, lines.Text())
	}
	return fmt.Errorf("%w:\n%s", err, strings.Join(tail[max(0, len(tail)-15):], "\n"))
}

// edit replaces text in a file of a fetched suite. Text that is not there is an
// error: the suite is not the one that was read.
func edit(file string, pairs ...string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for i := 0; i < len(pairs); i += 2 {
		if !bytes.Contains(text, []byte(pairs[i])) {
			return fmt.Errorf("%s: %q is not in it", file, pairs[i])
		}
		text = bytes.ReplaceAll(text, []byte(pairs[i]), []byte(pairs[i+1]))
	}
	return os.WriteFile(file, text, 0o644)
}
