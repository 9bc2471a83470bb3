package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/config"
)

const deployFolder = "../../deploy"

// manifest is what is looked at of Kubernetes' objects; kubectl knows the rest.
type manifest struct {
	Kind     string
	Metadata struct{ Name string }
	Data     map[string]string
	Spec     struct {
		Replicas             *int
		ServiceName          string `yaml:"serviceName"`
		Strategy             struct{ Type string }
		MaxUnavailable       *int `yaml:"maxUnavailable"`
		Template             struct{ Spec podSpec }
		VolumeClaimTemplates []struct{ Metadata struct{ Name string } } `yaml:"volumeClaimTemplates"`
	}
}

type podSpec struct {
	Automount      *bool       `yaml:"automountServiceAccountToken"`
	Grace          int         `yaml:"terminationGracePeriodSeconds"`
	Containers     []container `yaml:"containers"`
	InitContainers []container `yaml:"initContainers"`
	Volumes        []struct{ Name string }
}

type container struct {
	Name, Image     string
	RestartPolicy   string `yaml:"restartPolicy"`
	Command, Args   []string
	Env             []struct{ Name, Value string }
	Ports           []struct{ Name string }
	VolumeMounts    []struct{ Name string } `yaml:"volumeMounts"`
	Startup         *probe                  `yaml:"startupProbe"`
	Liveness        *probe                  `yaml:"livenessProbe"`
	Readiness       *probe                  `yaml:"readinessProbe"`
	Resources       map[string]map[string]string
	SecurityContext struct {
		ReadOnly   bool  `yaml:"readOnlyRootFilesystem"`
		Escalation *bool `yaml:"allowPrivilegeEscalation"`
	} `yaml:"securityContext"`
}

type probe struct {
	HTTPGet  struct{ Path, Port string } `yaml:"httpGet"`
	Period   int                         `yaml:"periodSeconds"`
	Failures int                         `yaml:"failureThreshold"`
}

func readDeploy(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(deployFolder, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// objects reads all documents of a file of YAML.
func objects(t *testing.T, data []byte) (all []manifest) {
	t.Helper()
	d := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var m manifest
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
}

// load is what the program would make of a command line, an environment and a file,
// whose secrets lie below dir instead of where they will.
func load(t *testing.T, args, environ []string, text []byte) (config.Config, error) {
	t.Helper()
	dir := t.TempDir()
	text = regexp.MustCompile(`/run/secrets/[a-z/-]*`).ReplaceAllFunc(text, func(name []byte) []byte {
		file := filepath.Join(dir, filepath.Base(string(name)))
		if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return []byte(file)
	})
	if text != nil {
		file := filepath.Join(dir, "crossfade.yaml")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		environ = append(slices.Clone(environ), config.ConfigEnv+"="+file)
	}
	flags := config.Bind(flag.NewFlagSet("", flag.ContinueOnError))
	rest, err := flags.Parse(args)
	if err != nil {
		return config.Config{}, err
	}
	if len(rest) > 0 {
		return config.Config{}, fmt.Errorf("%q is no flag", rest)
	}
	return flags.Load(environ)
}

func TestManifests(t *testing.T) {
	set := objects(t, readDeploy(t, "kubernetes/base/statefulset.yaml"))[0]
	if set.Kind != "StatefulSet" || *set.Spec.Replicas != 1 || len(set.Spec.Template.Spec.Containers) != 1 || *set.Spec.Template.Spec.Automount {
		t.Errorf("the set is %+v", set)
	}
	checkContainer(t, set.Spec.Template.Spec.Containers[0], set.Spec.Template.Spec, readDeploy(t, "kubernetes/base/crossfade.yaml"))

	patch := objects(t, readDeploy(t, "kubernetes/sidecar/patch.yaml"))[0]
	sidecar := patch.Spec.Template.Spec.InitContainers[0]
	if *patch.Spec.Replicas != 1 || patch.Spec.Strategy.Type != "Recreate" || sidecar.RestartPolicy != "Always" {
		t.Errorf("two sidecars could run: %+v", patch)
	}
	checkContainer(t, sidecar, patch.Spec.Template.Spec, readDeploy(t, "kubernetes/sidecar/crossfade.yaml"))
	if sidecar.Startup == nil || sidecar.Startup.HTTPGet.Path != "/readyz" {
		t.Error("the application would start before clients are served")
	} else if year := 365 * 24 * 60 * 60; sidecar.Startup.Period*sidecar.Startup.Failures < year {
		t.Errorf("a server that is away for %d × %d s would restart it", sidecar.Startup.Failures, sidecar.Startup.Period)
	}
}

func checkContainer(t *testing.T, c container, pod podSpec, file []byte) {
	t.Helper()
	if c.Args[0] != "run" {
		t.Errorf("%s: the verb is %s", c.Name, c.Args[0])
	}
	var environ []string
	for _, e := range c.Env {
		value := e.Value
		if value == "" {
			value = "from-a-secret"
		}
		if e.Name != config.ConfigEnv {
			environ = append(environ, e.Name+"="+value)
		}
	}
	set, err := load(t, c.Args[1:], environ, file)
	if err == nil {
		err = set.ValidateServers()
	}
	if err != nil {
		t.Errorf("%s: %v", c.Name, err)
	}
	if set.Source.Password != "from-a-secret" || set.Target.Password != "from-a-secret" || set.Admin.Token != "secret" {
		t.Errorf("%s: the secrets do not arrive: %+v", c.Name, set.Redacted())
	}
	// It must be reached from outside of the pod, and only the probes without a token.
	if set.Admin.Address != "0.0.0.0:6381" || !strings.HasPrefix(set.State, "/state/") {
		t.Errorf("%s: %+v", c.Name, set.Redacted())
	}
	for _, p := range []*probe{c.Startup, c.Liveness, c.Readiness} {
		if p == nil {
			continue
		}
		if !slices.Contains(admin.Probes(), p.HTTPGet.Path) || !slices.ContainsFunc(c.Ports, func(port struct{ Name string }) bool { return port.Name == p.HTTPGet.Port }) {
			t.Errorf("%s: nobody answers the probe %+v", c.Name, p)
		}
	}
	if c.Liveness.HTTPGet.Path != "/healthz" || c.Readiness.HTTPGet.Path != "/readyz" {
		t.Errorf("%s: the probes are mixed up", c.Name)
	}
	if time := set.Proxy.ShutdownTimeout.Seconds() + 30; float64(pod.Grace) < time {
		t.Errorf("%s: %d s are too short for a stop", c.Name, pod.Grace)
	}
	if !c.SecurityContext.ReadOnly || c.SecurityContext.Escalation == nil || *c.SecurityContext.Escalation || c.Resources["requests"]["memory"] == "" || c.Resources["limits"]["memory"] == "" || c.Resources["limits"]["cpu"] != "" {
		t.Errorf("%s: %+v, %+v", c.Name, c.SecurityContext, c.Resources)
	}
	for _, m := range c.VolumeMounts {
		if m.Name != "state" && !slices.ContainsFunc(pod.Volumes, func(v struct{ Name string }) bool { return v.Name == m.Name }) {
			t.Errorf("%s: there is no volume %s", c.Name, m.Name)
		}
	}
}

// TestKustomize renders them, where kubectl is there.
func TestKustomize(t *testing.T) {
	base := objects(t, []byte(shell(t, "kubectl", "kustomize", deployFolder+"/kubernetes/base")))
	var kinds []string
	for _, m := range base {
		kinds = append(kinds, m.Kind)
	}
	if got := strings.Join(slices.Sorted(slices.Values(kinds)), " "); got != "ConfigMap PodDisruptionBudget Service StatefulSet" {
		t.Errorf("the base has %s", got)
	}
	for _, m := range objects(t, []byte(shell(t, "kubectl", "kustomize", deployFolder+"/kubernetes/example"))) {
		if m.Kind != "Deployment" {
			continue
		}
		pod := m.Spec.Template.Spec
		if m.Metadata.Name != "application" || len(pod.Containers) != 1 || len(pod.InitContainers) != 1 || pod.InitContainers[0].RestartPolicy != "Always" || len(pod.Volumes) != 3 {
			t.Errorf("the application became %+v", m)
		}
		return
	}
	t.Error("the application is lost")
}

func TestCompose(t *testing.T) {
	var file struct {
		Services map[string]struct {
			Build       string
			Command     []string
			Environment map[string]string
			Volumes     []string
			Healthcheck struct{ Test []string }
			ReadOnly    bool `yaml:"read_only"`
		}
	}
	if err := yaml.Unmarshal(readDeploy(t, "compose/compose.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	ours := file.Services["crossfade"]
	if _, err := os.Stat(filepath.Join(deployFolder, "compose", ours.Build, "Dockerfile")); err != nil {
		t.Error(err)
	}
	c, err := load(t, ours.Command[1:], nil, nil)
	if err == nil {
		err = c.ValidateServers()
	}
	if err != nil || ours.Command[0] != "run" || !ours.ReadOnly {
		t.Errorf("%v of %+v", err, ours)
	}
	if test := ours.Healthcheck.Test; len(test) != 3 || test[0] != "CMD" || test[1] != "/crossfade" || !slices.ContainsFunc(verbs(), func(v *verb) bool { return v.name == test[2] }) {
		t.Errorf("the health check is %v", test)
	}
}

// TestUnit looks at the service with systemd's own tool, where it is there.
func TestUnit(t *testing.T) {
	unit := string(readDeploy(t, "systemd/crossfade.service"))
	file := readDeploy(t, "systemd/crossfade.yaml")
	start := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/crossfade run --config \$\{CREDENTIALS_DIRECTORY\}/(\S+)$`).FindStringSubmatch(unit)
	if start == nil || !strings.Contains(unit, "\nLoadCredential="+start[1]+":/etc/crossfade/crossfade.yaml\n") {
		t.Fatalf("the program does not get the file: %v", start)
	}
	c, err := load(t, []string{"--source", "redis://a", "--target", "redis://b"}, nil, file)
	if err == nil {
		err = c.ValidateServers()
	}
	if err != nil || c.State != "/var/lib/crossfade/crossfade.state" || c.Admin.Address != "unix:/run/crossfade/admin.sock" {
		t.Errorf("the configuration gives %+v, %v", c, err)
	}
	// As it is installed it is a mistake that the unit does not repeat for ever.
	c, err = load(t, nil, nil, file)
	if err != nil || c.ValidateServers() == nil {
		t.Errorf("without servers: %v, %v", err, c.ValidateServers())
	}
	if !strings.Contains(unit, fmt.Sprintf("\nRestartPreventExitStatus=%d %d\n", exitUsage, exitRefused)) || !strings.Contains(unit, "\nSuccessExitStatus=130 143\n") {
		t.Error("the exit statuses are not those of the program")
	}

	installed := filepath.Join(t.TempDir(), "crossfade.service")
	if err := os.WriteFile(installed, []byte(strings.ReplaceAll(unit, "/usr/bin/crossfade", binary)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := shell(t, "systemd-analyze", "verify", "--man=no", installed); strings.TrimSpace(out) != "" {
		t.Errorf("systemd-analyze verify says:\n%s", out)
	}
	out := shell(t, "systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", installed)
	found := regexp.MustCompile(`(?m)^✗ (\S+)`).FindAllStringSubmatch(out, -1)
	if len(found) == 0 {
		t.Skipf("this systemd tells it otherwise:\n%s", out)
	}
	// What cannot be avoided: a proxy has a network, and reads /proc/sys/net; and its loops
	// ask for short slices of time, which is one call of @resources.
	unavoidable := []string{"RootDirectory=/RootImage=", "RestrictAddressFamilies=~AF_UNIX", "RestrictAddressFamilies=~AF_(INET|INET6)", "ProcSubset=",
		"PrivateNetwork=", "DeviceAllow=", "IPAddressDeny=", "SystemCallFilter=~@resources"}
	for _, f := range found {
		if !slices.Contains(unavoidable, f[1]) {
			t.Errorf("%s can be avoided:\n%s", f[1], out)
		}
	}
}

// TestLookFirst: before the service is started, check is given what the service will get.
func TestLookFirst(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "crossfade.env"), []byte("# ours\nCROSSFADE_SOURCE_PASSWORD='a $b'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const told = `crossfade() { sh -c 'printf "%s, %s" "$CROSSFADE_SOURCE_PASSWORD" "$*"' sh "$@"; }` + "\n"
	for _, name := range []string{"README.md", "systemd/crossfade.yaml"} {
		line := regexp.MustCompile(`(?m)^(?:    |#   )(.*crossfade check --config .*)$`).FindSubmatch(readDeploy(t, name))
		if line == nil {
			t.Errorf("%s does not say how to look first", name)
			continue
		}
		got := shell(t, "sh", "-euc", told+strings.ReplaceAll(string(line[1]), "/etc/crossfade", dir))
		if want := "a $b, check --config " + dir + "/crossfade.yaml"; got != want {
			t.Errorf("%s: check gets %q, want %q", name, got, want)
		}
	}
}
