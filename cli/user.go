package cli

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"virtmesh/agent/fault"
	"virtmesh/agent/port/admin"
)

func userCommand() *cli.Command {
	return &cli.Command{
		Name: "user", Usage: "add, list and remove the users of the mesh, who have the rights that roles give them",
		Description: "Administrators, who may do all, are no users: 'virtmesh kubeconfig --admin' makes their certificates.",
		Subcommands: []*cli.Command{
			{Name: "add", Usage: "add a user, and give him a role", ArgsUsage: "NAME", Action: userAdd,
				Description: "'virtmesh kubeconfig --user NAME' then makes his kubeconfig. Repeating the command changes nothing; with another role it gives that role too. " +
					"Examples: 'virtmesh user add alice --cluster-role edit --namespace shop', 'virtmesh user add bob --group auditors --cluster-role view'.",
				Flags: []cli.Flag{
					&cli.StringSliceFlag{Name: "group", Usage: "a group that the user is in, as his certificates say; may be repeated"},
					&cli.BoolFlag{Name: "replace-groups", Usage: "give a user who is there these groups instead of those that he has; his certificates end"},
					&cli.StringFlag{Name: "role", Usage: "bind the `ROLE` of --namespace to the user"},
					&cli.StringFlag{Name: "cluster-role", Usage: "bind this ClusterRole to the user: in --namespace, or everywhere without"},
					&cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "the namespace in which the user gets the role"},
					outputFlag(),
				}},
			{Name: "rm", Usage: "remove users: their certificates end at once, on all hosts", ArgsUsage: "NAME...", Action: userRemove, BashComplete: offer(userNames),
				Description: "Open connections are cut off. The bindings that 'user add' made go too; others that name the user stay, and are listed.",
				Flags:       []cli.Flag{outputFlag()}},
			{Name: "ls", Usage: "list users, their groups, valid certificates, and the roles that bindings give to them by name", Action: userList, Flags: []cli.Flag{outputFlag()}},
		},
	}
}

// addedUser is what 'user add' prints.
type addedUser struct {
	admin.UserChange
	// Binding gives the user the role that was asked for.
	Binding *userBinding `json:"binding,omitempty"`
	// NamedBefore are the bindings that named a user of that name before he was added.
	NamedBefore []userBinding `json:"namedBefore,omitempty"`
}

func userAdd(c *cli.Context) error {
	name := c.Args().First()
	if name == "" {
		return errors.New("name the user, such as 'virtmesh user add alice'")
	}
	wanted, err := wantedBinding(name, c.String("role"), c.String("cluster-role"), c.String("namespace"))
	if err != nil {
		return err
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	bindings, err := newBindings(conn)
	if err != nil {
		return err
	}
	if wanted != nil {
		if err := bindings.checkRole(c.Context, *wanted); err != nil {
			return err
		}
	}
	added := addedUser{Binding: wanted}
	request := admin.UserRequest{Name: name, Groups: c.StringSlice("group"), ReplaceGroups: c.Bool("replace-groups")}
	if err := conn.mesh(c.Context, http.MethodPost, admin.UsersPath, request, &added.UserChange); err != nil {
		return err
	}
	if added.Created {
		if added.NamedBefore, err = bindings.namingBefore(c.Context, name, wanted); err != nil {
			return fault.New(fault.CodeOf(err), "the user %s is added, and bindings from before may name him: %s", name, explain(err)).
				WithRemedy("'virtmesh user ls' shows what roles he has; then repeat the command")
		}
	}
	bound := false
	if wanted != nil {
		if bound, err = bindings.create(c.Context, name, *wanted); err != nil {
			return fault.New(fault.CodeOf(err), "the user %s is there, and without the role: %s", name, explain(err))
		}
	}
	warnNamedBefore(c, added)
	if printed, err := printValue(c, added); printed {
		return err
	}
	tellUserAdded(c, added, bound)
	return nil
}

// warnNamedBefore says what a user has that nobody has just given him.
func warnNamedBefore(c *cli.Context, added addedUser) {
	for _, b := range added.NamedBefore {
		fmt.Fprintf(c.App.ErrWriter, "%s was there before and names %s: he has the %s; delete it if he shall not\n", b, added.User.Name, b.grants())
	}
}

// tellUserAdded says what 'user add' has changed, and how the user gets in.
func tellUserAdded(c *cli.Context, added addedUser, bound bool) {
	user, out := added.User, c.App.Writer
	in := ""
	if len(user.Groups) > 0 {
		in = ", in " + strings.Join(user.Groups, ", ")
	}
	switch {
	case added.Created:
		fmt.Fprintf(out, "user %s added%s\n", user.Name, in)
	case added.GroupsReplaced:
		fmt.Fprintf(out, "user %s changed%s; certificates that ended: %d\n", user.Name, in, len(added.Ended))
	default:
		fmt.Fprintf(out, "user %s unchanged%s\n", user.Name, in)
	}
	if added.Binding != nil {
		verb := "has"
		if bound {
			verb = "gets"
		}
		fmt.Fprintf(out, "%s %s the %s\n", user.Name, verb, added.Binding.grants())
	}
	if added.Created || added.GroupsReplaced {
		fmt.Fprintf(c.App.ErrWriter, "'virtmesh kubeconfig --user %s --output FILE' makes a kubeconfig\n", user.Name)
	}
}

// removedUser is what 'user rm' prints of a user.
type removedUser struct {
	Name string `json:"name"`
	// Ended are the certificates that ended with the user.
	Ended []admin.Certificate `json:"ended,omitempty"`
	// Removed are the bindings that went with him, Left those that still name him.
	Removed []userBinding `json:"removedBindings,omitempty"`
	Left    []userBinding `json:"leftBindings,omitempty"`
}

func userRemove(c *cli.Context) error {
	if !c.Args().Present() {
		return errors.New("name the user; 'virtmesh user ls' lists them")
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	bindings, err := newBindings(conn)
	if err != nil {
		return err
	}
	all := make([]removedUser, 0, c.NArg())
	for _, name := range c.Args().Slice() {
		removed, err := removeUser(c, conn, bindings, name)
		if err != nil {
			return err
		}
		all = append(all, removed)
		if c.String("output") == "" || c.String("output") == "wide" {
			tellUserRemoved(c, removed)
		}
	}
	_, err = printValue(c, all)
	return err
}

// removeUser removes a user and the bindings that were made for him. One who is gone already is
// an error, unless bindings of his were left.
func removeUser(c *cli.Context, conn *connection, bindings *bindings, name string) (removedUser, error) {
	removed := removedUser{Name: name}
	gone := conn.mesh(c.Context, http.MethodDelete, admin.UserPath(name), nil, &removed.Ended)
	if gone != nil && !errors.Is(gone, fault.NotFound) {
		return removed, gone
	}
	named, err := bindings.naming(c.Context, name)
	if err == nil {
		removed.Removed, removed.Left, err = bindings.removeOwn(c.Context, name, named)
	}
	if gone != nil && (err != nil || len(removed.Removed) == 0) {
		return removed, gone
	}
	if err != nil {
		return removed, fault.New(fault.CodeOf(err), "the user %s is removed, and bindings may name him still: %s", name, explain(err)).WithRemedy("repeat the command")
	}
	return removed, nil
}

func tellUserRemoved(c *cli.Context, removed removedUser) {
	fmt.Fprintf(c.App.Writer, "user %s removed; certificates that ended: %d\n", removed.Name, len(removed.Ended))
	for _, b := range removed.Removed {
		fmt.Fprintf(c.App.Writer, "%s removed\n", b)
	}
	for _, b := range removed.Left {
		fmt.Fprintf(c.App.ErrWriter, "%s still names %s: who is added under that name later has the %s\n", b, removed.Name, b.grants())
	}
}

// listedUser is what 'user ls' prints of a user.
type listedUser struct {
	admin.User
	// Bindings are those that name him; what his groups give is not among them.
	Bindings []userBinding `json:"bindings,omitempty"`
}

func userList(c *cli.Context) error {
	conn, err := connect(c)
	if err != nil {
		return err
	}
	var users []admin.User
	if err := conn.mesh(c.Context, http.MethodGet, admin.UsersPath, nil, &users); err != nil {
		return err
	}
	list := make([]listedUser, 0, len(users))
	if len(users) > 0 {
		bindings, err := newBindings(conn)
		if err != nil {
			return err
		}
		byUser, err := bindings.byUser(c.Context)
		if err != nil {
			return err
		}
		for _, user := range users {
			list = append(list, listedUser{user, byUser[user.Name]})
		}
	}
	if printed, err := printValue(c, list); printed {
		return err
	}
	wide := c.String("output") == "wide"
	header := []string{"NAME", "GROUPS", "CERTIFICATES", "VALID UNTIL", "ROLES"}
	if wide {
		header = append(header, "BINDINGS", "CREATED", "BY")
	}
	rows := make([][]string, 0, len(list))
	for _, user := range list {
		rows = append(rows, userRow(user, wide))
	}
	if err := printColumns(c.App.Writer, header, rows); err != nil {
		return err
	}
	for _, user := range list {
		if user.Unreadable != "" {
			fmt.Fprintf(c.App.ErrWriter, "The record of the user %s cannot be read (%s). Hosts of this version refuse his certificates; 'virtmesh user rm %s' removes him.\n", user.Name, user.Unreadable, user.Name)
		}
	}
	return nil
}

func userRow(user listedUser, wide bool) []string {
	var until time.Time
	for _, cert := range user.Certificates {
		if cert.Expires.After(until) {
			until = cert.Expires
		}
	}
	last := ""
	if !until.IsZero() {
		last = until.Local().Format(time.DateTime)
	}
	var roles, names []string
	for _, b := range user.Bindings {
		roles, names = append(roles, b.role()), append(names, b.String())
	}
	if user.Unreadable != "" {
		row := []string{user.Name, "(unreadable)", "", "", strings.Join(roles, ", "), strings.Join(names, ", "), "", ""}
		if !wide {
			row = row[:5]
		}
		return row
	}
	row := []string{user.Name, strings.Join(user.Groups, ", "), strconv.Itoa(len(user.Certificates)), last, strings.Join(roles, ", ")}
	if wide {
		row = append(row, strings.Join(names, ", "), user.Created.Local().Format(time.DateTime), user.CreatedBy)
	}
	return row
}

// userNames are the users that can be removed.
func userNames(c *cli.Context) ([]string, error) {
	conn, err := connect(c)
	if err != nil {
		return nil, err
	}
	var users []admin.User
	if err := conn.mesh(c.Context, http.MethodGet, admin.UsersPath, nil, &users); err != nil {
		return nil, err
	}
	names := make([]string, 0, len(users))
	for _, user := range users {
		names = append(names, user.Name)
	}
	return names, nil
}
