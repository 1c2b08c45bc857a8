package console

import (
	"net/http"
	"slices"

	"github.com/keyturn/keyturn/admin"
)

// shows makes a route of a page that everybody with a role may see.
func shows(path string, run func(*call) error) route {
	return route{method: http.MethodGet, path: path, role: admin.RoleViewer, run: run}
}

// posts makes a route of a form. back is the page of the form.
func posts(path string, role admin.Role, run, back func(*call) error) route {
	return route{
		method: http.MethodPost,
		path:   path,
		role:   role,
		fresh:  role == admin.RoleKeyOperator,
		run:    run,
		back:   back,
	}
}

// opens makes a route that needs no sign-in.
func opens(method, path string, run func(*call) error) route {
	return route{method: method, path: path, open: true, run: run}
}

// again makes a form also need a recent sign-in.
func again(t route) route {
	t.fresh = true
	return t
}

// scripted makes a route for the script of the pages.
func scripted(t route) route {
	t.script = true
	return t
}

// pageRoutes lists the pages and their forms.
func pageRoutes() []route {
	return slices.Concat(signInRoutes(), keyRoutes(), rowRoutes(), otherRoutes())
}

// signInRoutes are the ways in and out, and what every page needs.
func signInRoutes() []route {
	return []route{
		opens(http.MethodGet, "/static/{file}", as(fileCalls.static)),
		opens(http.MethodGet, "/sign-in", as(signInCalls.signInPage)),
		scripted(opens(http.MethodPost, "/sign-in/options", as(signInCalls.signInOptions))),
		scripted(opens(http.MethodPost, "/sign-in/passkey", as(signInCalls.signInByPasskey))),
		opens(http.MethodGet, "/enter/{token}", as(signInCalls.follow)),
		opens(http.MethodGet, "/enter", as(signInCalls.enterPage)),
		opens(http.MethodPost, "/enter", as(signInCalls.enter)),
		posts("/sign-out", admin.RoleViewer, as(signInCalls.signOut), nil),
		posts("/sign-out-everywhere", admin.RoleViewer, as(signInCalls.signOutEverywhere), nil),
		again(scripted(posts("/passkeys/options", admin.RoleViewer, as(signInCalls.passkeyOptions), nil))),
		again(scripted(posts("/passkeys", admin.RoleViewer, as(signInCalls.addPasskey), nil))),
		again(posts("/passkeys/{id}/remove", admin.RoleViewer, as(signInCalls.removePasskey),
			as(adminCalls.adminsPage))),
	}
}

func keyRoutes() []route {
	return []route{
		shows("/", func(k *call) error { return k.goTo("/keys", "") }),
		scripted(shows("/live", as(keyCalls.live))),
		shows("/keys", as(keyCalls.keysPage)),
		shows("/keys/rotate", as(keyCalls.rotatePage)),
		posts("/keys/rotate", admin.RoleKeyOperator, as(keyCalls.rotateForm), as(keyCalls.rotatePage)),
		shows("/keys/{kid}/revoke", as(keyCalls.revokePage)),
		posts("/keys/{kid}/revoke", admin.RoleKeyOperator, as(keyCalls.revokeForm), as(keyCalls.revokePage)),
	}
}

// rowRoutes are logins, clients and users.
func rowRoutes() []route {
	return []route{
		shows("/logins", as(grantCalls.loginsPage)),
		posts("/logins/end", admin.RoleOperator, as(grantCalls.endForm), as(grantCalls.loginsPage)),
		shows("/logins/{id}", as(grantCalls.loginPage)),
		posts("/logins/{id}/end", admin.RoleOperator, as(grantCalls.endOneForm), as(grantCalls.loginPage)),

		shows("/clients", as(clientCalls.clientsPage)),
		shows("/clients/{id}", as(clientCalls.clientPage)),
		posts("/clients/{id}/rotate-secret", admin.RoleOperator, as(clientCalls.secretForm),
			as(clientCalls.clientPage)),
		posts("/clients/{id}/enable", admin.RoleOperator, clientRows.form(admin.Clients.Enable, "client-enabled"),
			as(clientCalls.clientPage)),
		posts("/clients/{id}/disable", admin.RoleOperator, clientRows.form(admin.Clients.Disable, "client-disabled"),
			as(clientCalls.clientPage)),

		shows("/users", as(userCalls.usersPage)),
		shows("/users/{name}", as(userCalls.userPage)),
		posts("/users/{name}/enable", admin.RoleOperator, userRows.form(admin.Users.Enable, "user-enabled"),
			as(userCalls.userPage)),
		posts("/users/{name}/disable", admin.RoleOperator, userRows.form(admin.Users.Disable, "user-disabled"),
			as(userCalls.userPage)),
		posts("/users/{name}/unlock", admin.RoleOperator, userRows.form(admin.Users.Unlock, "user-unlocked"),
			as(userCalls.userPage)),
		posts("/users/{name}/roles", admin.RoleOperator, as(userCalls.rolesForm), as(userCalls.userPage)),
	}
}

func otherRoutes() []route {
	return []route{
		shows("/verifiers", as(observationCalls.verifiersPage)),
		shows("/probe-reports/{id}", as(observationCalls.probePage)),
		shows("/audit", as(auditCalls.auditPage)),
		{method: http.MethodGet, path: "/audit/export", role: admin.RoleAuditor, run: as(auditCalls.exportAudit)},

		shows("/admins", as(adminCalls.adminsPage)),
		posts("/admins/{name}/disable", admin.RoleKeyOperator, adminForm(admin.Administrators.Disable,
			"admin-disabled"),
			as(adminCalls.adminsPage)),
		posts("/admins/{name}/delete", admin.RoleKeyOperator, adminForm(admin.Administrators.Delete, "admin-deleted"),
			as(adminCalls.adminsPage)),
		posts("/admins/{name}/sign-out", admin.RoleKeyOperator, as(adminCalls.signOutOther), as(adminCalls.adminsPage)),
	}
}
