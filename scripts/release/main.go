// Command release makes what is published of a version: static binaries for Linux,
// Debian packages, their bills of materials, licences, and checksums.
// It owns the formats and what goes in. It never asks the network itself, and the same
// sources give the same bytes, wherever they lie.
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// release is one version to be made.
type release struct {
	source, out string // folders
	version     string
	date        time.Time // of everything in it
	arches      []string
	goTool      string
	log         io.Writer
}

func run(ctx context.Context, args []string, log io.Writer) error {
	r := release{log: log}
	set := flag.NewFlagSet("release", flag.ContinueOnError)
	set.StringVar(&r.source, "source", ".", "the `FOLDER` of the sources")
	set.StringVar(&r.out, "out", "bin/release", "the `FOLDER` to write to; what is in it is removed")
	set.StringVar(&r.version, "version", "", "the version, such as v1.2.3")
	set.StringVar(&r.goTool, "go", "go", "the go command")
	licences := set.Bool("licences", false, "only list the licences of all that is in the binaries; one that nobody has looked at is an error")
	arches := set.String("arch", "amd64,arm64", "for which processors")
	date := set.String("date", os.Getenv("SOURCE_DATE_EPOCH"), "the date of all files, in seconds since 1970; without it that of the newest commit")
	if err := set.Parse(args); err != nil {
		return err
	}
	if r.version == "" {
		return errors.New("give a -version")
	}
	r.arches = strings.Split(*arches, ",")
	if *licences {
		return r.licences(ctx)
	}
	seconds, err := strconv.ParseInt(cmp.Or(*date, r.committed(ctx)), 10, 64)
	if err != nil {
		return errors.New("no date: give -date or SOURCE_DATE_EPOCH, in seconds since 1970; there is no git here to ask")
	}
	r.date = time.Unix(seconds, 0).UTC()
	return r.make(ctx)
}

// committed is when the newest commit was made, "" when nobody knows.
func (r *release) committed(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "-C", r.source, "log", "-1", "--format=%ct").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func (r *release) make(ctx context.Context) error {
	if err := os.RemoveAll(r.out); err != nil {
		return err
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	modules, err := r.modules(ctx)
	if err != nil {
		return err
	}
	third := thirdParty(modules)
	if err := r.write("THIRD-PARTY-LICENSES.txt", third, 0o644); err != nil {
		return err
	}
	texts, err := r.texts(ctx)
	if err != nil {
		return err
	}
	for _, arch := range r.arches {
		name := "crossfade-" + r.version + "-linux-" + arch
		binary := filepath.Join(r.out, name)
		if err := r.build(ctx, "linux", arch, binary); err != nil {
			return err
		}
		program, err := os.ReadFile(binary)
		if err != nil {
			return err
		}
		bill, err := r.bill(program, arch, modules)
		if err != nil {
			return err
		}
		if err := r.write(name+".cdx.json", bill, 0o644); err != nil {
			return err
		}
		pack, err := r.debian(arch, program, texts, third)
		if err != nil {
			return err
		}
		if err := r.write("crossfade_"+debianVersion(r.version, r.date)+"_"+arch+".deb", pack, 0o644); err != nil {
			return err
		}
	}
	return r.sums()
}

func (r *release) write(name string, data []byte, mode os.FileMode) error {
	return os.WriteFile(filepath.Join(r.out, name), data, mode)
}

// sums writes SHA256SUMS, as sha256sum --check reads it.
func (r *release) sums() error {
	entries, err := os.ReadDir(r.out)
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, e := range entries { // by name
		data, err := os.ReadFile(filepath.Join(r.out, e.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%x  %s\n", sha256.Sum256(data), e.Name())
	}
	_, _ = fmt.Fprintf(r.log, "%s", text.String())
	return r.write("SHA256SUMS", []byte(text.String()), 0o644)
}

// build makes one binary. Nothing of where and by whom it is built goes in.
func (r *release) build(ctx context.Context, system, arch, out string) error {
	absolute, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, r.goTool, "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version="+r.version, "-o", absolute, "./cmd/crossfade")
	if cmd.Env, err = r.environment(system, arch); err != nil {
		return err
	}
	cmd.Dir = r.source
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building for %s/%s: %w\n%s", system, arch, err, text)
	}
	return nil
}

// environment is the caller's without what would change the outcome. The toolchain is
// that of go.mod, to the patch level.
func (r *release) environment(system, arch string) ([]string, error) {
	toolchain, err := r.toolchain()
	if err != nil {
		return nil, err
	}
	ours := []string{"CGO_ENABLED=0", "GOOS=" + system, "GOARCH=" + arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=-mod=readonly", "GOWORK=off",
		"GOTOOLCHAIN=" + toolchain, "GOEXPERIMENT=", "GOFIPS140=off"}
	return append(slices.DeleteFunc(os.Environ(), func(set string) bool {
		name, _, _ := strings.Cut(set, "=")
		return slices.ContainsFunc(ours, func(o string) bool { return strings.HasPrefix(o, name+"=") })
	}), ours...), nil
}

// toolchain is the one that go.mod names.
func (r *release) toolchain() (string, error) {
	data, err := os.ReadFile(filepath.Join(r.source, "go.mod"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if version, is := strings.CutPrefix(line, "go "); is {
			return "go" + strings.TrimSpace(version), nil
		}
	}
	return "", errors.New("go.mod names no version of Go")
}

// texts are what the program says of itself, by the name of its arguments.
func (r *release) texts(ctx context.Context) (map[string][]byte, error) {
	folder, err := os.MkdirTemp("", "release-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	program := filepath.Join(folder, "crossfade")
	if err := r.build(ctx, runtime.GOOS, runtime.GOARCH, program); err != nil {
		return nil, err
	}
	texts := map[string][]byte{}
	for _, args := range []string{"man", "completion bash", "completion zsh", "completion fish", "config --example"} {
		cmd := exec.CommandContext(ctx, program, strings.Fields(args)...)
		cmd.Env = []string{}
		if texts[args], err = cmd.Output(); err != nil {
			return nil, fmt.Errorf("crossfade %s: %w", args, err)
		}
	}
	return texts, nil
}
