// Program admin drives the admin API with a client certificate and with types that were generated from admin.yaml. It
// gives a user a role, ends its logins, and prints what the audit trail says of both.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"

	"example/client"
)

func main() {
	if err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// robot is a program with a role.
type robot struct{ *client.ClientWithResponses }

func run(ctx context.Context, base, authority, certFile, keyFile string) error {
	over, err := withCertificate(authority, certFile, keyFile)
	if err != nil {
		return err
	}
	c, err := client.NewClientWithResponses(base, client.WithHTTPClient(over))
	if err != nil {
		return err
	}
	for _, job := range []func(robot, context.Context) error{
		robot.changeRoles,
		robot.endLogins,
		robot.readTrail,
		robot.tryToRotate,
	} {
		if err := job(robot{c}, ctx); err != nil {
			return err
		}
	}
	return nil
}

// withCertificate returns a client that trusts an authority and shows a certificate.
func withCertificate(authority, certFile, keyFile string) (*http.Client, error) {
	certificate, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(authority)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs:      roots,
		Certificates: []tls.Certificate{certificate},
	}}}, nil
}

// changeRoles gives a user a role, and then sends the ETag of before once more.
func (c robot) changeRoles(ctx context.Context) error {
	user, err := c.ShowUserWithResponse(ctx, "alice")
	if err != nil || user.JSON200 == nil {
		return fmt.Errorf("show user: %v %s", err, user.Body)
	}
	seen := &client.SetRolesParams{IfMatch: user.HTTPResponse.Header.Get("ETag")}
	roles, err := c.SetRolesWithResponse(ctx, "alice", seen, client.RolesOrder{
		Reason: "a new duty",
		Roles:  append(user.JSON200.Roles, "boss"),
	})
	if err != nil || roles.JSON200 == nil {
		return fmt.Errorf("roles: %v %s", err, roles.Body)
	}
	fmt.Println("roles", roles.JSON200.Roles)
	again, err := c.SetRolesWithResponse(ctx, "alice", seen, client.RolesOrder{Reason: "too late", Roles: []string{}})
	if err != nil || again.ApplicationproblemJSON412 == nil {
		return fmt.Errorf("an old ETag: %v %s", err, again.Body)
	}
	fmt.Println("changed by", again.ApplicationproblemJSON412.ChangedBy.Actor)
	return nil
}

func (c robot) endLogins(ctx context.Context) error {
	name := "alice"
	ended, err := c.EndGrantsWithResponse(ctx, &client.EndGrantsParams{IfMatch: "*"}, client.EndOrder{
		Reason: "moved on",
		User:   &name,
	})
	if err != nil || ended.JSON200 == nil {
		return fmt.Errorf("end logins: %v %s", err, ended.Body)
	}
	for _, grant := range ended.JSON200.Items {
		if grant.EndedReason == nil {
			return fmt.Errorf("login %s lives", grant.Id)
		}
	}
	fmt.Println("ended", len(ended.JSON200.Items))
	return nil
}

func (c robot) readTrail(ctx context.Context) error {
	newest := true
	trail, err := c.ListAuditWithResponse(ctx, &client.ListAuditParams{Newest: &newest})
	if err != nil || trail.JSON200 == nil {
		return fmt.Errorf("audit: %v %s", err, trail.Body)
	}
	for _, record := range trail.JSON200.Items[:2] {
		fmt.Println(record.Type, record.Actor, *record.Reason)
	}
	return nil
}

// tryToRotate does what an operator may not do.
func (c robot) tryToRotate(ctx context.Context) error {
	rotate, err := c.RotateKeysWithResponse(ctx, &client.RotateKeysParams{IfMatch: "*"}, client.RotateOrder{})
	if err != nil || rotate.ApplicationproblemJSON403 == nil {
		return fmt.Errorf("an operator rotates keys: %v %s", err, rotate.Body)
	}
	fmt.Println("refused", rotate.ApplicationproblemJSON403.Type)
	return nil
}
