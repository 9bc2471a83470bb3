package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/crossfade/crossfade/internal/redistest"
)

// dockerSocket is the variable with the socket on which servers are asked for.
const dockerSocket = "SUITES_DOCKER"

// docker is what this program does when it is called docker: as much as a suite
// needs that starts its servers so. "build" answers with the server's arguments,
// "run" has the program that runs the suite start one with them, "rm" does nothing.
func docker(args []string) int {
	err := dockerVerb(args)
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "docker:", err)
		return 1
	}
	return 0
}

func dockerVerb(args []string) error {
	if len(args) == 0 {
		return errors.New("no verb")
	}
	switch args[0] {
	case "build":
		for _, a := range args {
			if words, ok := strings.CutPrefix(a, "REDIS_ARGUMENTS="); ok {
				fmt.Println(words)
				return nil
			}
		}
		return errors.New("build without REDIS_ARGUMENTS")
	case "rm":
		return nil
	case "run":
	default:
		return fmt.Errorf("the verb %s is not known", args[0])
	}
	conn, err := net.Dial("unix", os.Getenv(dockerSocket))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := json.NewEncoder(conn).Encode(args); err != nil {
		return err
	}
	var problem string
	if err := json.NewDecoder(conn).Decode(&problem); err != nil {
		return err
	}
	if problem != "" {
		return errors.New(problem)
	}
	fmt.Println("started")
	return nil
}

// docker puts a program of that name into a folder and starts what it asks for,
// until ctx ends. It returns the folder, where its socket is too.
func (w *way) docker(ctx context.Context) (string, error) {
	bin := filepath.Join(w.dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		return "", err
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if err := os.Symlink(self, filepath.Join(bin, "docker")); err != nil {
		return "", err
	}
	l, err := net.Listen("unix", filepath.Join(bin, "socket"))
	if err != nil {
		return "", err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			w.asked(ctx, conn)
		}
	}()
	return bin, nil
}

// asked starts one server. Those of a cluster know each other's addresses, so they
// are reached directly.
func (w *way) asked(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	var args []string
	if err := json.NewDecoder(conn).Decode(&args); err != nil {
		return
	}
	problem := ""
	c, err := configOf(args)
	switch {
	case err != nil:
	case slices.ContainsFunc(c.Directives, func(d []string) bool { return d[0] == "cluster-enabled" }):
		_, err = w.server(ctx, c)
	default:
		_, err = w.serve(ctx, c)
	}
	if err != nil {
		problem = err.Error()
	}
	_ = json.NewEncoder(conn).Encode(problem)
}

// configOf reads "… --port 1 --requirepass x --save ” …".
func configOf(args []string) (redistest.Config, error) {
	var c redistest.Config
	at := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "--") && a != "--network" })
	if at < 0 {
		return c, errors.New("no arguments for the server")
	}
	for i := at; i+1 < len(args); i += 2 {
		name, value := strings.TrimPrefix(args[i], "--"), strings.Trim(args[i+1], "'")
		switch name {
		case "port":
			port, err := strconv.Atoi(value)
			if err != nil {
				return c, fmt.Errorf("the port: %w", err)
			}
			c.Port = port
		case "requirepass":
			c.Password = value
		case "save", "enable-debug-command": // as they are anyway
		default:
			c.Directives = append(c.Directives, []string{name, value})
		}
	}
	return c, nil
}
