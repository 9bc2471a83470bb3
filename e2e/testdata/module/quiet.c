/* A module whose command tells nobody what it changes. What it needs of the server
 * is asked for by name, as the server wants it, so that no header of the server's is. */

typedef struct Context Context;
typedef struct String String;
typedef struct Key Key;
typedef int Command(Context *, String **, int);

enum { OK = 0, API = 1, READ = 1, WRITE = 2 };

static Key *(*open_key)(Context *, String *, int);
static void (*close_key)(Key *);
static int (*string_set)(Key *, String *);
static int (*reply)(Context *, const char *);
static int (*wrong_arity)(Context *);

static int quiet_set(Context *ctx, String **argv, int argc) {
	if (argc != 3)
		return wrong_arity(ctx);
	Key *key = open_key(ctx, argv[1], READ | WRITE);
	string_set(key, argv[2]);
	close_key(key);
	return reply(ctx, "OK");
}

int RedisModule_OnLoad(Context *ctx, String **argv, int argc) {
	(void)argv, (void)argc;
	int (*ask)(const char *, void *) = *(int (**)(const char *, void *))ctx;
	void (*attribs)(Context *, const char *, int, int);
	int (*create)(Context *, const char *, Command *, const char *, int, int, int);
	ask("RedisModule_SetModuleAttribs", &attribs);
	ask("RedisModule_CreateCommand", &create);
	ask("RedisModule_OpenKey", &open_key);
	ask("RedisModule_CloseKey", &close_key);
	ask("RedisModule_StringSet", &string_set);
	ask("RedisModule_ReplyWithSimpleString", &reply);
	ask("RedisModule_WrongArity", &wrong_arity);
	attribs(ctx, "quiet", 1, API);
	return create(ctx, "quiet.set", quiet_set, "write", 1, 1, 1) == OK ? OK : 1;
}
