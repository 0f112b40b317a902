// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A plugin of clang's, for clang-tidy: its checks see what a unit's own file declares, and not all that this includes and
// imports. cmake/FmmapTidy.cmake builds it and says what that saves.
#include <memory>
#include <string>
#include <vector>

#include "clang/AST/ASTConsumer.h"
#include "clang/AST/ASTContext.h"
#include "clang/Basic/SourceManager.h"
#include "clang/Frontend/FrontendAction.h"
#include "clang/Frontend/FrontendPluginRegistry.h"

namespace {

class own_code final : public clang::ASTConsumer {
public:
  void HandleTranslationUnit(clang::ASTContext& context) override {
    std::vector<clang::Decl*> own;
    // Not decls(), which loads everything that is imported.
    for (clang::Decl* const declared : context.getTranslationUnitDecl()->noload_decls()) {
      if (!declared->isFromASTFile() && !context.getSourceManager().isInSystemHeader(declared->getLocation())) {
        own.push_back(declared);
      }
    }
    context.setTraversalScope(own);
  }
};

// Goes before what clang-tidy does with the unit, in every unit.
class own_code_first final : public clang::PluginASTAction {
protected:
  std::unique_ptr<clang::ASTConsumer> CreateASTConsumer(clang::CompilerInstance& /*compiler*/,
                                                        llvm::StringRef) override {
    return std::make_unique<own_code>();
  }

  bool ParseArgs(clang::CompilerInstance const& /*compiler*/, std::vector<std::string> const&) override { return true; }

  ActionType getActionType() override { return AddBeforeMainAction; }
};

clang::FrontendPluginRegistry::Add<own_code_first> const registered("own-code",
                                                                    "shows checks the unit's own file alone");

} // namespace
