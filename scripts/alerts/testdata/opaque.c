/* A module with a type of its own. What it needs of the server is asked for by name, as the
 * server wants it, so that no header of the server's is. */

typedef struct Context Context;
typedef struct String String;
typedef struct Key Key;
typedef struct IO IO;
typedef struct Type Type;
typedef int Command(Context *, String **, int);

enum { OK = 0, API = 1, READ = 1, WRITE = 2, GENERIC = 1 << 2 };

static Key *(*open_key)(Context *, String *, int);
static void (*close_key)(Key *);
static int (*set_value)(Key *, Type *, void *);
static void (*save_unsigned)(IO *, unsigned long long);
static unsigned long long (*load_unsigned)(IO *);
static int (*notify)(Context *, int, const char *, String *);
static int (*reply)(Context *, const char *);
static int (*wrong_arity)(Context *);

static Type *type;
static int there;

static void *load(IO *io, int version) {
	(void)version, load_unsigned(io);
	return &there;
}

static void save(IO *io, void *value) { (void)value, save_unsigned(io, 1); }

static void rewrite(IO *io, String *key, void *value) { (void)io, (void)key, (void)value; }

static void drop(void *value) { (void)value; }

static int opaque_set(Context *ctx, String **argv, int argc) {
	if (argc != 2)
		return wrong_arity(ctx);
	Key *key = open_key(ctx, argv[1], READ | WRITE);
	set_value(key, type, &there);
	close_key(key);
	notify(ctx, GENERIC, "opaque.set", argv[1]);
	return reply(ctx, "OK");
}

int RedisModule_OnLoad(Context *ctx, String **argv, int argc) {
	(void)argv, (void)argc;
	int (*ask)(const char *, void *) = *(int (**)(const char *, void *))ctx;
	void (*attribs)(Context *, const char *, int, int);
	int (*create)(Context *, const char *, Command *, const char *, int, int, int);
	Type *(*create_type)(Context *, const char *, int, void *);
	ask("RedisModule_SetModuleAttribs", &attribs);
	ask("RedisModule_CreateCommand", &create);
	ask("RedisModule_CreateDataType", &create_type);
	ask("RedisModule_OpenKey", &open_key);
	ask("RedisModule_CloseKey", &close_key);
	ask("RedisModule_ModuleTypeSetValue", &set_value);
	ask("RedisModule_SaveUnsigned", &save_unsigned);
	ask("RedisModule_LoadUnsigned", &load_unsigned);
	ask("RedisModule_NotifyKeyspaceEvent", &notify);
	ask("RedisModule_ReplyWithSimpleString", &reply);
	ask("RedisModule_WrongArity", &wrong_arity);
	attribs(ctx, "opaque", 1, API);
	struct {
		unsigned long long version;
		void *load, *save, *rewrite, *usage, *digest, *drop;
	} methods = {1, load, save, rewrite, 0, 0, drop};
	if (!(type = create_type(ctx, "opaque-cf", 0, &methods)))
		return 1;
	return create(ctx, "opaque.set", opaque_set, "write", 1, 1, 1) == OK ? OK : 1;
}
