package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// module is one whose code is in the binary; ours and the standard library among them.
type module struct {
	path, version string
	needs         []string // paths of others, sorted
	licence       string   // an SPDX expression
	text          string   // of its licence files
}

// standard is the path by which the standard library is known to bills of materials.
const standard = "std"

// listed is what go list says of a package.
type listed struct {
	ImportPath string
	Standard   bool
	Imports    []string
	ImportMap  map[string]string
	Module     *struct {
		Path, Version, Dir string
		Main               bool
	}
}

// modules asks which modules' packages are compiled in, on any of the processors.
func (r *release) modules(ctx context.Context) ([]module, error) {
	packages := map[string]listed{}
	for _, arch := range r.arches {
		found, err := r.list(ctx, arch)
		if err != nil {
			return nil, err
		}
		for _, p := range found {
			packages[p.ImportPath] = p
		}
	}
	root, err := r.goRoot(ctx)
	if err != nil {
		return nil, err
	}
	byPath, folders := map[string]*module{}, map[string]string{}
	for _, p := range packages {
		path := moduleOf(p)
		m := byPath[path]
		if m == nil {
			m = &module{path: path}
			byPath[path] = m
			if path == standard {
				m.version, err = r.toolchain()
				folders[path] = root
			} else {
				m.version, folders[path] = p.Module.Version, p.Module.Dir
			}
			if err != nil {
				return nil, err
			}
			if p.Module != nil && p.Module.Main {
				m.version = r.version
			}
		}
		for _, name := range p.Imports {
			if renamed := p.ImportMap[name]; renamed != "" {
				name = renamed
			}
			if needed, known := packages[name]; known && moduleOf(needed) != path {
				m.needs = append(m.needs, moduleOf(needed))
			}
		}
	}
	var all []module
	for path, m := range byPath {
		slices.Sort(m.needs)
		m.needs = slices.Compact(m.needs)
		if m.licence, m.text, err = licenceIn(folders[path]); err != nil {
			return nil, fmt.Errorf("the licence of %s %s: %w", m.path, m.version, err)
		}
		all = append(all, *m)
	}
	slices.SortFunc(all, func(x, y module) int { return strings.Compare(x.path, y.path) })
	return all, nil
}

func moduleOf(p listed) string {
	if p.Standard || p.Module == nil {
		return standard
	}
	return p.Module.Path
}

func (r *release) list(ctx context.Context, arch string) ([]listed, error) {
	cmd := exec.CommandContext(ctx, r.goTool, "list", "-deps", "-json=ImportPath,Standard,Imports,ImportMap,Module", "./cmd/crossfade")
	cmd.Dir = r.source
	var err error
	if cmd.Env, err = r.environment("linux", arch); err != nil {
		return nil, err
	}
	out, err := cmd.Output()
	if err != nil {
		return nil, told("listing the packages", err)
	}
	var all []listed
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("reading the list of packages: %w", err)
		}
		all = append(all, p)
	}
}

func (r *release) goRoot(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, r.goTool, "env", "GOROOT")
	cmd.Dir = r.source
	var err error
	if cmd.Env, err = r.environment("linux", r.arches[0]); err != nil {
		return "", err
	}
	out, err := cmd.Output()
	if err != nil {
		return "", told("asking for Go's folder", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// told adds what a command wrote.
func told(what string, err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%s: %w\n%s", what, err, exit.Stderr)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// licenceIn reads the licence files of a module. One that is not known is an error:
// somebody has to look whether it may be passed on.
func licenceIn(folder string) (expression, text string, err error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return "", "", err
	}
	var names []string
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		if !e.IsDir() && (strings.HasPrefix(name, "LICENSE") || strings.HasPrefix(name, "LICENCE") || strings.HasPrefix(name, "COPYING") || strings.HasPrefix(name, "NOTICE")) {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		return "", "", fmt.Errorf("%s has none", folder)
	}
	var all strings.Builder
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return "", "", err
		}
		all.WriteString(strings.TrimSpace(strings.ReplaceAll(string(data), "\r\n", "\n")) + "\n\n")
	}
	expression = recognise(all.String())
	if expression == "" {
		return "", "", fmt.Errorf("it is none of those that are known here: %v", names)
	}
	return expression, strings.TrimSpace(all.String()) + "\n", nil
}

// recognise tells licences by sentences that each of them has, as an SPDX expression.
func recognise(text string) string {
	plain := strings.Join(strings.Fields(text), " ")
	has := func(sentence string) bool { return strings.Contains(plain, sentence) }
	var found []string
	if has("Apache License") && has("Version 2.0") {
		found = append(found, "Apache-2.0")
	}
	if has("Redistribution and use in source and binary forms") {
		if has("Neither the name") || has("names of its contributors may") {
			found = append(found, "BSD-3-Clause")
		} else {
			found = append(found, "BSD-2-Clause")
		}
	}
	if has("Permission is hereby granted, free of charge") {
		found = append(found, "MIT")
	}
	if has("Permission to use, copy, modify, and/or distribute this software") || has("Permission to use, copy, modify, and distribute this software") {
		found = append(found, "ISC")
	}
	if has("Mozilla Public License, version 2.0") || has("Mozilla Public License Version 2.0") {
		found = append(found, "MPL-2.0")
	}
	return strings.Join(found, " AND ")
}

// licences lists what is in the binaries, and under which terms.
func (r *release) licences(ctx context.Context) error {
	all, err := r.modules(ctx)
	if err != nil {
		return err
	}
	for _, m := range all {
		if _, err := fmt.Fprintf(r.log, "%-14s  %s %s\n", m.licence, m.path, m.version); err != nil {
			return err
		}
	}
	return nil
}

// thirdParty is the text that goes along with the binaries.
func thirdParty(modules []module) []byte {
	var b strings.Builder
	b.WriteString("Crossfade is made of its own sources (Apache-2.0, see LICENSE) and of those below,\nwhose licences ask for being passed on.\n")
	for _, m := range modules {
		if m.path == ours {
			continue
		}
		fmt.Fprintf(&b, "\n%s\n%s %s (%s)\n\n%s", strings.Repeat("=", 80), m.path, m.version, m.licence, m.text)
	}
	return []byte(b.String())
}

// ours is the path of this module.
const ours = "github.com/crossfade/crossfade"
