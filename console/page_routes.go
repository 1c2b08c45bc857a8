package console

import (
	"net/http"

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
	return []route{
		opens(http.MethodGet, "/static/{file}", (*call).static),
		opens(http.MethodGet, "/sign-in", (*call).signInPage),
		scripted(opens(http.MethodPost, "/sign-in/options", (*call).signInOptions)),
		scripted(opens(http.MethodPost, "/sign-in/passkey", (*call).signInByPasskey)),
		opens(http.MethodGet, "/enter/{token}", (*call).follow),
		opens(http.MethodGet, "/enter", (*call).enterPage),
		opens(http.MethodPost, "/enter", (*call).enter),
		posts("/sign-out", admin.RoleViewer, (*call).signOut, nil),
		posts("/sign-out-everywhere", admin.RoleViewer, (*call).signOutEverywhere, nil),
		again(scripted(posts("/passkeys/options", admin.RoleViewer, (*call).passkeyOptions, nil))),
		again(scripted(posts("/passkeys", admin.RoleViewer, (*call).addPasskey, nil))),
		again(posts("/passkeys/{id}/remove", admin.RoleViewer, (*call).removePasskey, (*call).adminsPage)),

		shows("/", func(k *call) error { return k.goTo("/keys", "") }),
		scripted(shows("/live", (*call).live)),
		shows("/keys", (*call).keysPage),
		shows("/keys/rotate", (*call).rotatePage),
		posts("/keys/rotate", admin.RoleKeyOperator, (*call).rotateForm, (*call).rotatePage),
		shows("/keys/{kid}/revoke", (*call).revokePage),
		posts("/keys/{kid}/revoke", admin.RoleKeyOperator, (*call).revokeForm, (*call).revokePage),

		shows("/logins", (*call).loginsPage),
		posts("/logins/end", admin.RoleOperator, (*call).endForm, (*call).loginsPage),
		shows("/logins/{id}", (*call).loginPage),
		posts("/logins/{id}/end", admin.RoleOperator, (*call).endOneForm, (*call).loginPage),

		shows("/clients", (*call).clientsPage),
		shows("/clients/{id}", (*call).clientPage),
		posts("/clients/{id}/rotate-secret", admin.RoleOperator, (*call).secretForm, (*call).clientPage),
		posts("/clients/{id}/enable", admin.RoleOperator, clientForm(admin.Clients.Enable, "client-enabled"),
			(*call).clientPage),
		posts("/clients/{id}/disable", admin.RoleOperator, clientForm(admin.Clients.Disable, "client-disabled"),
			(*call).clientPage),

		shows("/users", (*call).usersPage),
		shows("/users/{name}", (*call).userPage),
		posts("/users/{name}/enable", admin.RoleOperator, userForm(admin.Users.Enable, "user-enabled"),
			(*call).userPage),
		posts("/users/{name}/disable", admin.RoleOperator, userForm(admin.Users.Disable, "user-disabled"),
			(*call).userPage),
		posts("/users/{name}/unlock", admin.RoleOperator, userForm(admin.Users.Unlock, "user-unlocked"),
			(*call).userPage),
		posts("/users/{name}/roles", admin.RoleOperator, (*call).rolesForm, (*call).userPage),

		shows("/verifiers", (*call).verifiersPage),
		shows("/probe-reports/{id}", (*call).probePage),
		shows("/audit", (*call).auditPage),
		{method: http.MethodGet, path: "/audit/export", role: admin.RoleAuditor, run: (*call).exportAudit},

		shows("/admins", (*call).adminsPage),
		posts("/admins/{name}/disable", admin.RoleKeyOperator, adminForm(admin.Administrators.Disable,
			"admin-disabled"),
			(*call).adminsPage),
		posts("/admins/{name}/delete", admin.RoleKeyOperator, adminForm(admin.Administrators.Delete, "admin-deleted"),
			(*call).adminsPage),
		posts("/admins/{name}/sign-out", admin.RoleKeyOperator, (*call).signOutOther, (*call).adminsPage),
	}
}
