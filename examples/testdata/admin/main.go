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

func run(ctx context.Context, base, authority, certFile, keyFile string) error {
	certificate, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(authority)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	over := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs:      roots,
		Certificates: []tls.Certificate{certificate},
	}}}
	c, err := client.NewClientWithResponses(base, client.WithHTTPClient(over))
	if err != nil {
		return err
	}
	user, err := c.ShowUserWithResponse(ctx, "alice")
	if err != nil || user.JSON200 == nil {
		return fmt.Errorf("show user: %v %s", err, user.Body)
	}
	roles, err := c.SetRolesWithResponse(ctx, "alice", &client.SetRolesParams{
		IfMatch: user.HTTPResponse.Header.Get("ETag"),
	}, client.RolesOrder{Reason: "a new duty", Roles: append(user.JSON200.Roles, "boss")})
	if err != nil || roles.JSON200 == nil {
		return fmt.Errorf("roles: %v %s", err, roles.Body)
	}
	fmt.Println("roles", roles.JSON200.Roles)
	again, err := c.SetRolesWithResponse(ctx, "alice", &client.SetRolesParams{
		IfMatch: user.HTTPResponse.Header.Get("ETag"),
	}, client.RolesOrder{Reason: "too late", Roles: []string{}})
	if err != nil || again.ApplicationproblemJSON412 == nil {
		return fmt.Errorf("an old ETag: %v %s", err, again.Body)
	}
	fmt.Println("changed by", again.ApplicationproblemJSON412.ChangedBy.Actor)
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
	newest := true
	trail, err := c.ListAuditWithResponse(ctx, &client.ListAuditParams{Newest: &newest})
	if err != nil || trail.JSON200 == nil {
		return fmt.Errorf("audit: %v %s", err, trail.Body)
	}
	for _, record := range trail.JSON200.Items[:2] {
		fmt.Println(record.Type, record.Actor, *record.Reason)
	}
	rotate, err := c.RotateKeysWithResponse(ctx, &client.RotateKeysParams{IfMatch: "*"}, client.RotateOrder{})
	if err != nil || rotate.ApplicationproblemJSON403 == nil {
		return fmt.Errorf("an operator rotates keys: %v %s", err, rotate.Body)
	}
	fmt.Println("refused", rotate.ApplicationproblemJSON403.Type)
	return nil
}
