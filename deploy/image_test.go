//go:build deploy

package deploy_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The image runs as its user, without a right, on a read-only root, is healthy, and serves.
func TestRunImage(t *testing.T) {
	e := newEngine(t)
	for _, tag := range []string{"latest", "openssl"} {
		image := "localhost/keyturn:" + tag
		size, err := strconv.ParseFloat(e.podman("image", "inspect", "--format={{.Size}}", image), 64)
		if err != nil {
			t.Fatal(err)
		}
		row := newRow("image, " + tag)
		began := time.Now()
		words := strings.NewReplacer("docker ", "", "--rm", "--detach --name=kt", " keyturn ", " "+image+" ")
		e.podman(strings.Fields(words.Replace(pageCommands(t, "A container", "docker run")[0]))...)
		client := e.client("127.0.0.1:8080", nil)
		await(t, "it is healthy", time.Minute, func() error {
			_, err := e.inside("podman", "healthcheck", "run", "kt")
			return err
		})
		row.set("starts", "%.1f s", time.Since(began).Seconds())
		if state := e.podman("inspect", "--format={{.State.Healthcheck.Status}}", "kt"); state != "healthy" {
			t.Errorf("%s: %s", tag, state)
		}
		checkProcess(t, e.podman("inspect", "--format={{.State.Pid}}", "kt"))
		await(t, "it says how to log in", time.Minute, func() error {
			if !strings.Contains(e.podman("logs", "kt"), "/token") {
				return errors.New("not yet")
			}
			return nil
		})
		devLogin(t, client, e.podman("logs", "kt"))
		row.set("serves", "yes")
		row.set("memory", "%s", memoryOf(t, e, "kt"))
		began = time.Now()
		e.podman("restart", "kt")
		await(t, "it serves again", time.Minute, func() error { return answers(client, "http://kt/readyz") })
		row.set("survives restart", "%.1f s", time.Since(began).Seconds())
		began = time.Now()
		e.podman("stop", "kt")
		row.set("stop", "%.1f s", time.Since(began).Seconds())
		e.podman("rm", "kt")
		row.set("notes", "%.0f MB", size/1e6)
		row.done(t)
	}
}

// checkProcess checks the rights of the process of a container.
func checkProcess(t *testing.T, pid string) {
	t.Helper()
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t65532\t65532\t65532\t65532", "CapEff:\t0000000000000000",
		"CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("not %q:\n%s", want, status)
		}
	}
	mounts, err := os.ReadFile("/proc/" + pid + "/mounts")
	if err != nil || !regexp.MustCompile(`(?m)^\S+ / \S+ ro,`).Match(mounts) {
		t.Errorf("the root can be written to: %v\n%s", err, mounts)
	}
}

// devLogin logs in as `keyturn dev` says.
func devLogin(t *testing.T, client *http.Client, log string) {
	t.Helper()
	command := regexp.MustCompile(`curl [^\n]*/token[^\n]*`).FindString(log)
	form := url.Values{}
	for _, m := range regexp.MustCompile(`-d '?([a-z_]+)=([^ ']+)'?`).FindAllStringSubmatch(command, -1) {
		form.Set(m[1], m[2])
	}
	user := regexp.MustCompile(`-u '?([^: ]+):([^' ]+)'?`).FindStringSubmatch(command)
	if user == nil || form.Get("grant_type") != "password" {
		t.Fatalf("no command for a login in %s", log)
	}
	r, err := http.NewRequest(http.MethodPost, "http://kt/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(user[1], user[2])
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if body, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("%s: %v %s", answer.Status, err, body)
	}
}

// answers returns an error unless a URL answers 200.
func answers(client *http.Client, where string) error {
	answer, err := client.Get(where)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if body, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != http.StatusOK {
		return errors.Join(err, fmt.Errorf("%s: %s", answer.Status, body))
	}
	return nil
}

// memoryOf returns the resident memory of a container's process.
func memoryOf(t *testing.T, e *engine, container string) string {
	t.Helper()
	status, err := os.ReadFile("/proc/" + e.podman("inspect", "--format={{.State.Pid}}", container) + "/status")
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if err != nil || m == nil {
		t.Fatalf("%v %s", err, status)
	}
	kib, _ := strconv.Atoi(string(m[1]))
	return fmt.Sprintf("%d MiB", kib/1024)
}
