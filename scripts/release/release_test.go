package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

const (
	testVersion = "v1.2.3-rc1"
	testDate    = "1700000000"
)

var cold = os.Getenv("RELEASE_COLD") != ""

// copyTree copies the sources that make a release, without what git and builds keep.
func copyTree(t *testing.T) string {
	t.Helper()
	from, to := filepath.Join("..", ".."), t.TempDir()
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		switch {
		case err != nil:
			return err
		case e.IsDir() && (e.Name() == ".git" || name == "bin" || e.Name() == "testdata" || e.Name() == "node_modules"):
			return filepath.SkipDir
		case e.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		case !e.Type().IsRegular() || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), data, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// make builds all of a release in a copy of the sources, and returns where it is.
func makeRelease(t *testing.T, arches string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds several binaries")
	}
	if cold {
		t.Setenv("GOCACHE", t.TempDir())
	}
	out := filepath.Join(t.TempDir(), "out")
	if err := run(t.Context(), []string{"-source", copyTree(t), "-out", out, "-version", testVersion, "-date", testDate, "-arch", arches}, io.Discard); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestReproducible: two folders give the same bytes. With RELEASE_COLD they share no
// cache either, so that everything is compiled twice.
func TestReproducible(t *testing.T) {
	first := makeRelease(t, "amd64,arm64")
	t.Setenv("GOFLAGS", "-v")
	t.Setenv("GOAMD64", "v3")
	t.Setenv("TZ", "Asia/Tokyo")
	second := makeRelease(t, "amd64,arm64")
	entries, err := os.ReadDir(first)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
		a, errA := os.ReadFile(filepath.Join(first, e.Name()))
		b, errB := os.ReadFile(filepath.Join(second, e.Name()))
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("%s is not the same: %d and %d bytes, %v, %v", e.Name(), len(a), len(b), errA, errB)
		}
		for _, folder := range []string{filepath.Dir(first), filepath.Dir(second)} {
			if bytes.Contains(a, []byte(folder)) {
				t.Errorf("%s names the folder it was made in", e.Name())
			}
		}
	}
	want := "SHA256SUMS THIRD-PARTY-LICENSES.txt crossfade-v1.2.3-rc1-linux-amd64 crossfade-v1.2.3-rc1-linux-amd64.cdx.json " +
		"crossfade-v1.2.3-rc1-linux-arm64 crossfade-v1.2.3-rc1-linux-arm64.cdx.json crossfade_1.2.3~rc1_amd64.deb crossfade_1.2.3~rc1_arm64.deb"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("the files are %s", got)
	}
	sums, err := os.ReadFile(filepath.Join(first, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names[1:] {
		data, err := os.ReadFile(filepath.Join(first, name))
		if err != nil || !strings.Contains(string(sums), fmt.Sprintf("%x  %s\n", sha256.Sum256(data), name)) {
			t.Errorf("%s is not in SHA256SUMS: %v", name, err)
		}
	}
	checkBinary(t, filepath.Join(first, names[2]))
	checkBill(t, filepath.Join(first, names[3]))
	checkBill(t, filepath.Join(first, names[5]))
	licences, err := os.ReadFile(filepath.Join(first, names[1]))
	if err != nil || !strings.Contains(string(licences), "github.com/redis/go-redis/v9") || !strings.Contains(string(licences), "\nstd go1.") {
		t.Errorf("the licences: %.200s, %v", licences, err)
	}
	for _, name := range names[6:] {
		checkDeb(t, filepath.Join(first, name))
	}
}

// checkBinary wants it static, and to know its version.
func checkBinary(t *testing.T, file string) {
	t.Helper()
	if runtime.GOARCH == "amd64" && runtime.GOOS == "linux" {
		if out, err := exec.Command(file, "version").Output(); err != nil || !strings.HasPrefix(string(out), "crossfade "+testVersion+" ") {
			t.Errorf("version: %s, %v", out, err)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("ld-linux")) {
		t.Error("it wants a dynamic linker")
	}
}

func checkBill(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var b billOfMaterials
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		t.Fatal(err)
	}
	if b.Format != "CycloneDX" || b.Spec != "1.5" || b.Metadata.Timestamp != "2023-11-14T22:13:20Z" || len(b.Serial) != len("urn:uuid:")+36 {
		t.Errorf("%s begins with %.300s", file, data)
	}
	program, err := os.ReadFile(strings.TrimSuffix(file, ".cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	main := b.Metadata.Component
	if main.Name != "crossfade" || main.Version != testVersion || main.Hashes[0].Content != fmt.Sprintf("%x", sha256.Sum256(program)) {
		t.Errorf("the component is %+v", main)
	}
	refs := map[string]bool{main.Ref: true}
	for _, c := range b.Components {
		if refs[c.Ref] {
			t.Errorf("%s is there twice", c.Ref)
		}
		refs[c.Ref] = true
		if c.Version == "" || len(c.Licences) != 1 {
			t.Errorf("%+v", c)
		}
	}
	for _, want := range []string{"pkg:golang/github.com/redis/go-redis/v9@v9.", "pkg:golang/std@1.", "pkg:golang/go.yaml.in/yaml/v3@v3."} {
		if !bytes.Contains(data, []byte(want)) {
			t.Errorf("no %s", want)
		}
	}
	if bytes.Contains(data, []byte("goleak")) || bytes.Contains(data, []byte("asynq")) {
		t.Error("what only the tests use is in it")
	}
	if len(b.Dependencies) != len(refs) {
		t.Errorf("%d dependencies of %d components", len(b.Dependencies), len(refs))
	}
	for _, d := range b.Dependencies {
		for _, ref := range append(d.Depends, d.Ref) {
			if !refs[ref] {
				t.Errorf("%s is no component", ref)
			}
		}
	}
}

func TestDebianVersion(t *testing.T) {
	date := time.Unix(1700000000, 0).UTC()
	for version, want := range map[string]string{
		"v1.2.3": "1.2.3", "v1.2.3-dirty": "1.2.3+dirty", "v1.2.3-5-gabc123": "1.2.3+5.gabc123", "v1.2.3-rc1": "1.2.3~rc1",
		"v1.2.3-rc1-5-gabc123-dirty": "1.2.3~rc1+5.gabc123+dirty", "abc123": "0~20231114221320.abc123", "abc123-dirty": "0~20231114221320.abc123+dirty",
		"version": "0~20231114221320.version", "unknown": "0~20231114221320.unknown",
	} {
		if got := debianVersion(version, date); got != want {
			t.Errorf("%s: %s, want %s", version, got, want)
		}
	}
	order := []string{"0~20231114221320.abc123", "1.2.3~rc1", "1.2.3~rc1+5.gabc123", "1.2.3", "1.2.3+5.gabc123", "1.2.4"}
	dpkg := need(t, "dpkg")
	for i := 1; i < len(order); i++ {
		if err := exec.Command(dpkg, "--compare-versions", order[i-1], "lt", order[i]).Run(); err != nil {
			t.Errorf("%s does not come before %s", order[i-1], order[i])
		}
	}
}

func TestRecognise(t *testing.T) {
	for text, want := range map[string]string{
		"Apache License\n  Version 2.0, January 2004":                                "Apache-2.0",
		"Redistribution and use in source and\nbinary forms":                         "BSD-2-Clause",
		"Redistribution and use in source and binary forms … Neither the name of":    "BSD-3-Clause",
		"Permission is hereby granted, free of charge … Apache License, Version 2.0": "Apache-2.0 AND MIT",
		"Mozilla Public License, version 2.0":                                        "MPL-2.0",
		"All rights reserved.":                                                       "",
	} {
		if got := recognise(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "LICENSE"), []byte("All rights reserved."), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := licenceIn(folder); err == nil {
		t.Error("a licence that nobody knows is taken")
	}
}

// need skips a test where a program is missing.
func need(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("there is no %s", name)
	}
	return path
}
