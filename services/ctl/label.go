package ctl

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// labelled is a resource that is a name and a description: zones and pools.
type labelled interface {
	proto.Message
	GetName() string
	GetUid() string
	GetEtag() string
	GetDescription() string
	GetCreateTime() *timestamppb.Timestamp
	GetUpdateTime() *timestamppb.Timestamp
}

// listed is a list's response with all pages in it, and its items.
type listed[T any] struct {
	response proto.Message
	items    []T
}

// label is a kind of labelled resource and the calls that serve it.
type label[T labelled] struct {
	noun, plural, collection, long string
	// example is what else to give to create and update, if anything.
	example string

	list   func(ctx context.Context, api *region, f listFlags) (listed[T], error)
	get    func(ctx context.Context, api *region, name string) (T, error)
	create func(ctx context.Context, api *region, id string, item T, f *changeFlags) (T, error)
	update func(ctx context.Context, api *region, item T, paths []string, f *changeFlags) (T, error)
	remove func(ctx context.Context, api *region, name string, f *changeFlags) error

	// fresh is a resource to create or update.
	fresh func(name, description string) T
	// more adds flags for what else there is to say of it; the function it gives
	// reads them and names the fields that were given. nil: nothing.
	more func(c *cobra.Command) func(item T) (paths []string, err error)
	// columns and block show what else there is.
	columns []display.Column[T]
	block   func(b *display.Block, item T)
}

func labelCommand[T labelled](a *app, l label[T]) *cobra.Command {
	return noun(l.noun, strings.ToUpper(l.plural[:1])+l.plural[1:], l.long,
		l.listCommand(a), l.getCommand(a), l.createCommand(a), l.updateCommand(a), l.deleteCommand(a))
}

func (l label[T]) listCommand(a *app) *cobra.Command {
	var f listFlags
	c := &cobra.Command{
		Use: "list", Short: "List " + l.plural, Args: takes(0),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			found, err := l.list(ctx, api, f)
			if err != nil {
				return fail(err, "list %s", l.plural)
			}
			return printList(a, found.response, found.items, T.GetName, l.shown(a.now()))
		},
	}
	f.register(c, `name = "`+l.collection+`/a"`, "name desc")
	return c
}

func (l label[T]) getCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Short: "Show a " + l.noun, Args: takes(1), ValidArgsFunction: a.completeArg(l.ids),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			item, err := l.get(ctx, api, full(l.collection, args[0]))
			if err != nil {
				return fail(err, "show %s %s", l.noun, args[0])
			}
			return l.print(a, item)
		},
	}
}

func (l label[T]) print(a *app, item T) error {
	return a.printBlock(item, item.GetName(), func(b *display.Block) {
		b.Add("Name", display.ID(item.GetName()))
		b.Add("Description", item.GetDescription())
		if l.block != nil {
			l.block(b, item)
		}
		b.Add("Uid", item.GetUid())
		b.Add("Created", display.Time(a.now(), item.GetCreateTime()))
		b.Add("Changed", display.Time(a.now(), item.GetUpdateTime()))
	})
}

func (l label[T]) createCommand(a *app) *cobra.Command {
	var f changeFlags
	var description string
	var more func(T) ([]string, error)
	c := &cobra.Command{
		Use: "create NAME", Short: "Add a " + l.noun, Args: takes(1), ValidArgsFunction: cobra.NoFileCompletions,
		Example: l.examples("create"),
		RunE: func(c *cobra.Command, args []string) error {
			wanted := l.fresh("", description)
			if _, err := more(wanted); err != nil {
				return err
			}
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			item, err := l.create(ctx, api, args[0], wanted, &f)
			if err != nil {
				return fail(err, "create %s %s", l.noun, args[0])
			}
			return a.changed(item, item.GetName(), &f, func() error { return printTable(a, []T{item}, l.shown(a.now())) })
		},
	}
	more = l.flags(c, &description)
	f.register(c)
	return c
}

func (l label[T]) examples(verb string) string {
	s := "  vmhostctl " + l.noun + " " + verb + " a --description 'first floor'"
	if l.example != "" {
		s += "\n  vmhostctl " + l.noun + " " + verb + " a " + l.example
	}
	return s
}

// flags adds the flags of a resource's fields.
func (l label[T]) flags(c *cobra.Command, description *string) (read func(T) ([]string, error)) {
	c.Flags().StringVar(description, "description", "", "free `TEXT`")
	more := func(T) ([]string, error) { return nil, nil }
	if l.more != nil {
		more = l.more(c)
	}
	return func(item T) ([]string, error) {
		paths, err := more(item)
		if c.Flags().Changed("description") {
			paths = append(paths, "description")
		}
		return paths, err
	}
}

func (l label[T]) updateCommand(a *app) *cobra.Command {
	var f changeFlags
	var description string
	var more func(T) ([]string, error)
	c := &cobra.Command{
		Use: "update NAME", Short: "Change a " + l.noun, Args: takes(1), ValidArgsFunction: a.completeArg(l.ids),
		Example: l.examples("update"),
		RunE: func(c *cobra.Command, args []string) error {
			wanted := l.fresh(full(l.collection, args[0]), description)
			paths, err := more(wanted)
			if err != nil {
				return err
			}
			if len(paths) == 0 {
				return usage(a.helpHintOf(l.noun+" update"), "nothing to change was given")
			}
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			item, err := l.update(ctx, api, wanted, paths, &f)
			if err != nil {
				return fail(err, "update %s %s", l.noun, args[0])
			}
			return a.changed(item, item.GetName(), &f, func() error { return printTable(a, []T{item}, l.shown(a.now())) })
		},
	}
	more = l.flags(c, &description)
	f.register(c)
	return c
}

func (l label[T]) deleteCommand(a *app) *cobra.Command {
	var f changeFlags
	c := &cobra.Command{
		Use: "delete NAME", Short: "Remove a " + l.noun + " that nothing uses", Args: takes(1), ValidArgsFunction: a.completeArg(l.ids),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			name := full(l.collection, args[0])
			if err := l.remove(ctx, api, name, &f); err != nil {
				return fail(err, "delete %s %s", l.noun, args[0])
			}
			return a.gone(l.noun, name, "deleted", &f)
		},
	}
	f.register(c)
	return c
}

func (l label[T]) ids(ctx context.Context, api *region) ([]string, error) {
	found, err := l.list(ctx, api, listFlags{limit: completionLimit})
	ids := make([]string, 0, len(found.items))
	for _, item := range found.items {
		ids = append(ids, describe(display.ID(item.GetName()), item.GetDescription()))
	}
	return ids, err
}

func (l label[T]) shown(now time.Time) []display.Column[T] {
	return slices.Concat(
		[]display.Column[T]{
			{Head: "NAME", Cell: func(t T) string { return display.ID(t.GetName()) }},
			{Head: "DESCRIPTION", Text: true, Cell: func(t T) string { return t.GetDescription() }},
		},
		l.columns,
		[]display.Column[T]{
			{Head: "AGE", Cell: func(t T) string { return display.Age(now, t.GetCreateTime()) }},
			{Head: "UID", Wide: true, Cell: func(t T) string { return t.GetUid() }},
		},
	)
}
